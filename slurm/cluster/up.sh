#!/usr/bin/env bash
# usage: up.sh [DIR]     A real Slurm on this machine alone, as root, without systemd: munge, MariaDB, slurmdbd,
# slurmctld, slurmd; all state below DIR (default /var/tmp/ctpo-slurm). Safe to repeat: what runs is left running.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=$(realpath -m "${1:-${CTPO_SLURM_DIR:-/var/tmp/ctpo-slurm}}")
host=$(hostname -s)
conf=$dir/etc/slurm.conf
cpus=$(getconf _NPROCESSORS_ONLN)  # nproc would believe OMP_NUM_THREADS

fail() { echo "slurm-up: $1" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "needs root: it installs and starts the daemons of a cluster"
[ ! -e /etc/slurm/slurm.conf ] || [ "$(realpath /etc/slurm/slurm.conf)" = "$conf" ] ||
  fail "/etc/slurm/slurm.conf is of another cluster; it is left alone, and no local one is started beside it"

if ! hash slurmctld slurmd slurmdbd munged mariadbd sbatch 2>/dev/null; then
  command -v apt-get >/dev/null || fail "install slurmctld, slurmd, slurmdbd, munge and MariaDB first"
  echo "slurm-up: installing slurm-wlm slurmdbd mariadb-server munge"
  apt-get update -qq
  # The packages' own services are not wanted: daemons are started here, on a state directory of their own.
  policy=/usr/sbin/policy-rc.d
  [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && trap 'rm -f "$policy"' EXIT; }
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    slurm-wlm slurmdbd mariadb-server munge >/dev/null
fi

if [ -e "$conf" ] && SLURM_CONF=$conf timeout 5 sinfo -h -o %t 2>/dev/null | grep -qxE 'idle|mix|alloc'; then
  echo "slurm-up: already up (state in $dir)"
  exit 0
fi

mkdir -p "$dir"/{etc,munge,ctld,d,gpu} /etc/slurm
chmod 755 "$dir" "$dir/etc"
chmod 711 "$dir/munge"
[ -s "$dir/munge/munge.key" ] || (umask 077 && head -c 128 /dev/urandom >"$dir/munge/munge.key")
for i in {0..7}; do [ -e "$dir/gpu/g$i" ] || mknod -m 666 "$dir/gpu/g$i" c 1 3; done # eight times /dev/null
printf 'AutoDetect=off\nName=gpu File=%s/gpu/g[0-7]\n' "$dir" >"$dir/etc/gres.conf"
sed -e "s#@DIR@#$dir#g; s/@HOST@/$host/g; s/@CPUS@/$cpus/g" \
  -e "s/@CTLD_PORT@/26817/; s/@SLURMD_PORT@/26818/; s/@DBD_PORT@/26819/" "$here/slurm.conf.in" >"$conf"
ln -sfn "$conf" /etc/slurm/slurm.conf
export SLURM_CONF=$conf

until_ok() { # until_ok SECONDS WHAT COMMAND...
  local tenths=$(($1 * 10)) what=$2
  shift 2
  while ! timeout 5 "$@" >/dev/null 2>&1; do
    tenths=$((tenths - 1))
    ((tenths > 0)) || fail "$what does not answer; its log is in $dir"
    sleep 0.1
  done
}
# running FILE NAME: whether the pid in FILE is that daemon's; after a crash or a restart it may be anybody's.
running() { [ -s "$1" ] && [ "$(cat "/proc/$(cat "$1")/comm" 2>/dev/null)" = "$2" ]; }

running "$dir/munge/munged.pid" munged ||
  munged --force --key-file="$dir/munge/munge.key" --socket="$dir/munge/munge.sock" --num-threads=2 \
    --pid-file="$dir/munge/munged.pid" --seed-file="$dir/munge/munged.seed" --log-file="$dir/munge/munged.log"

socket=$dir/my.sock
[ -d "$dir/my/mysql" ] || mariadb-install-db --no-defaults --user=root --datadir="$dir/my" --skip-test-db \
  --auth-root-authentication-method=socket >"$dir/my-install.log" 2>&1
if ! running "$dir/my.pid" mariadbd; then # not `running || ... &`: that shell would live on and hold a caller's pipe open
  setsid mariadbd --no-defaults --user=root --datadir="$dir/my" --socket="$socket" --pid-file="$dir/my.pid" \
    --skip-networking --innodb-buffer-pool-size=64M --innodb-log-file-size=16M --innodb-lock-wait-timeout=900 \
    >"$dir/my.log" 2>&1 </dev/null &
fi
until_ok 60 MariaDB mariadb-admin --no-defaults -uroot --socket="$socket" ping
mariadb --no-defaults -uroot --socket="$socket" -e "create database if not exists slurm_acct_db;
  create user if not exists slurm@localhost identified by 'slurm'; grant all on slurm_acct_db.* to slurm@localhost;"
# The database listens on a socket of a directory of root's alone, so its password is no secret.
cat >"$dir/etc/slurmdbd.conf" <<END
AuthType=auth/munge
AuthInfo=socket=$dir/munge/munge.sock
DbdHost=localhost
DbdPort=26819
SlurmUser=root
DebugLevel=info
LogFile=$dir/slurmdbd.log
PidFile=$dir/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
END
chmod 600 "$dir/etc/slurmdbd.conf"
running "$dir/slurmdbd.pid" slurmdbd || MYSQL_UNIX_PORT="$socket" slurmdbd # its client library takes the socket from there
until_ok 60 slurmdbd sacctmgr -n list cluster
for entity in "cluster ctpo" "account default" "user root account=default"; do
  # shellcheck disable=SC2086
  sacctmgr -i add $entity >/dev/null 2>&1 || true # it is there already
done

running "$dir/slurmctld.pid" slurmctld || slurmctld -i
running "$dir/slurmd.pid" slurmd || slurmd
until_ok 60 slurmctld scontrol ping
scontrol update nodename="$host" state=resume 2>/dev/null || true # refused unless it was left down or drained
until_ok 60 "the node" sh -c 'sinfo -h -o %t | grep -qxE "idle|mix|alloc"'
echo "slurm-up: one node is up, with partitions main, cpu and spare; state in $dir"
echo "slurm-up: its 8 GPUs and 128 CPUs are declared, not real: they exercise the scheduler and compute nothing"
