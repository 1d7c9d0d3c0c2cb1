#!/usr/bin/env bash
# usage: test-packages.sh    Debian packages that only the tests need; called by `make test`, safe to repeat.
set -euo pipefail

packages=()
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || packages+=(chromium)  # opens the report
if ((${#packages[@]})); then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "test-packages: installing ${packages[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
  else
    echo "test-packages: without ${packages[*]} some tests are skipped; ask an administrator: apt-get install ${packages[*]}"
  fi
fi
