#!/usr/bin/env bash
# usage: down.sh [DIR]     Ends what up.sh started, by recorded pid, with its jobs. The state directory stays.
set -euo pipefail
dir=$(realpath -m "${1:-${CTPO_SLURM_DIR:-/var/tmp/ctpo-slurm}}")
export SLURM_CONF=$dir/etc/slurm.conf
[ -e "$SLURM_CONF" ] || { echo "slurm-down: no cluster in $dir"; exit 0; }

# running FILE NAME: whether the pid in FILE is that daemon's; after a crash or a restart it may be anybody's.
running() { [ -s "$1" ] && [ "$(cat "/proc/$(cat "$1")/comm" 2>/dev/null)" = "$2" ]; }

if running "$dir/slurmctld.pid" slurmctld; then
  timeout 10 scancel --state=PENDING --user=root 2>/dev/null || true
  timeout 10 scancel --user=root 2>/dev/null || true
  for _ in {1..100}; do
    [ -n "$(timeout 5 squeue -h 2>/dev/null)" ] || break
    sleep 0.2
  done
fi
for daemon in slurmd.pid:slurmd slurmctld.pid:slurmctld slurmdbd.pid:slurmdbd munge/munged.pid:munged my.pid:mariadbd; do
  running "$dir/${daemon%:*}" "${daemon#*:}" || continue
  pid=$(cat "$dir/${daemon%:*}")
  kill "$pid"
  for _ in {1..100}; do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
done
[ "$(realpath -m /etc/slurm/slurm.conf)" != "$SLURM_CONF" ] || rm -f /etc/slurm/slurm.conf
echo "slurm-down: down (state kept in $dir)"
