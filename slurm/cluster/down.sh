#!/usr/bin/env bash
# usage: down.sh [DIR]     Ends what up.sh started, by recorded pid, with its jobs. The state directory stays.
set -euo pipefail
dir=$(realpath -m "${1:-${CTPO_SLURM_DIR:-/var/tmp/ctpo-slurm}}")
export SLURM_CONF=$dir/etc/slurm.conf
[ -e "$SLURM_CONF" ] || { echo "slurm-down: no cluster in $dir"; exit 0; }

running() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

if running "$dir/slurmctld.pid"; then
  timeout 10 scancel --state=PENDING --user=root 2>/dev/null || true
  timeout 10 scancel --user=root 2>/dev/null || true
  for _ in {1..100}; do
    [ -n "$(timeout 5 squeue -h 2>/dev/null)" ] || break
    sleep 0.2
  done
fi
for name in slurmd.pid slurmctld.pid slurmdbd.pid munge/munged.pid my.pid; do
  running "$dir/$name" || continue
  pid=$(cat "$dir/$name")
  kill "$pid"
  for _ in {1..100}; do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
done
[ "$(realpath -m /etc/slurm/slurm.conf)" != "$SLURM_CONF" ] || rm -f /etc/slurm/slurm.conf
echo "slurm-down: down (state kept in $dir)"
