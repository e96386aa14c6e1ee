#!/usr/bin/env bash
# A real S3 service for tests: one Ceph monitor, manager, storage daemon (in memory) and gateway, on loopback.
#
#   ceph.sh up DIR PORT MON_PORT    start all; DIR/env gets the AWS_* variables
#   ceph.sh gateway-down DIR        stop the gateway alone; the data stay
#   ceph.sh gateway-up DIR PORT     start it again
#   ceph.sh down DIR                stop what `up` started, by the recorded process ids, and nothing else
#
# Needs Debian's radosgw ceph-mon ceph-osd ceph-mgr ceph-common. All files lie below DIR, which must be new.
set -euo pipefail

die() {
  echo "ceph.sh: $*" >&2
  exit 1
}

configure() { # port, monitor's port
  cat >"$DIR/ceph.conf" <<CONF
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon initial members = a
mon host = [v2:127.0.0.1:$2]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
# Daemons take any free port from here on; another server of this kind may run on the same machine.
ms bind port min = 20000
ms bind port max = 29999
ms bind ipv6 = false
keyring = $DIR/admin.keyring
run dir = $DIR/run
crash dir = $DIR/run
admin socket = $DIR/run/\$name.\$pid.asok
pid file = $DIR/run/\$name.pid
log file = $DIR/log/\$name.log
mon cluster log file = $DIR/log/cluster.log
log to stderr = false
err to stderr = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 2000
mon data avail crit = 1
mon pg warn min per osd = 0
auth allow insecure global id reclaim = false

[mon.a]
mon data = $DIR/mon.a

[mgr.x]
keyring = $DIR/mgr.keyring
mgr initial modules =

[osd.0]
osd data = $DIR/osd.0
keyring = $DIR/osd.0/keyring
osd objectstore = memstore
memstore device bytes = 4294967296
osd crush update on start = false
osd class update on start = false

[client.rgw]
rgw data = $DIR
keyring = $DIR/rgw.keyring
# Without tcp_nodelay a small GET waits 40 ms for an acknowledgement.
rgw frontends = beast endpoint=127.0.0.1:$1 tcp_nodelay=1
rgw thread pool size = 64
CONF
}

# A process is known by its id and its start time: ids are used again.
started_at() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }
state_of() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f1; }

daemon() { # name, command...
  local name=$1
  shift
  setsid "$@" >"$DIR/log/$name.out" 2>&1 </dev/null &
  echo "$! $(started_at $!)" >"$DIR/$name.process"
}

stop() { # name
  local pid start
  [[ -f "$DIR/$1.process" ]] || return 0
  read -r pid start <"$DIR/$1.process"
  for ((n = 0; n < 200; n++)); do
    [[ "$(started_at "$pid")" == "$start" && "$(state_of "$pid")" != Z ]] || break
    # A daemon that was asked and did not end in ten seconds holds nothing that a test wants to keep.
    ((n == 0)) && { kill -TERM "$pid" 2>/dev/null || true; }
    ((n == 100)) && { kill -KILL "$pid" 2>/dev/null || true; }
    sleep 0.1
  done
  rm -f "$DIR/$1.process"
}

stop_all() {
  for name in rgw osd mgr mon; do stop "$name"; done
}

until_true() { # seconds, what, command...
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >"$DIR/log/waiting" 2>&1; do
    ((SECONDS < end)) || die "$what took too long: $(tail -3 "$DIR/log/waiting"); logs are in $DIR/log"
    sleep 0.2
  done
}

admin() { ceph -c "$DIR/ceph.conf" --connect-timeout 5 "$@"; }
osd_is_up() { admin osd stat | grep -q "1 up"; }
answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

gateway_up() { # port
  daemon rgw radosgw -c "$DIR/ceph.conf" -f -n client.rgw
  until_true 90 "the gateway" answers "$1"
}

up() { # port, monitor's port
  mkdir "$DIR" "$DIR"/{mon.a,osd.0,run,log}
  trap '[[ $? -eq 0 ]] || stop_all' EXIT
  configure "$1" "$2"

  ceph-authtool -C "$DIR/mon.keyring" --gen-key -n mon. --cap mon 'allow *' >/dev/null
  ceph-authtool -C "$DIR/admin.keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *' >/dev/null
  ceph-authtool "$DIR/mon.keyring" --import-keyring "$DIR/admin.keyring" >/dev/null
  local fsid
  fsid=$(sed -n 's/^fsid = //p' "$DIR/ceph.conf")
  monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$2]" "$DIR/monmap" >/dev/null
  ceph-mon -c "$DIR/ceph.conf" -i a --mkfs --monmap "$DIR/monmap" --keyring "$DIR/mon.keyring"
  daemon mon ceph-mon -c "$DIR/ceph.conf" -f -i a
  until_true 30 "the monitor" admin mon stat

  admin auth get-or-create mgr.x mon 'allow profile mgr' osd 'allow *' >"$DIR/mgr.keyring"
  daemon mgr ceph-mgr -c "$DIR/ceph.conf" -f -i x

  local secret uuid
  secret=$(ceph-authtool --gen-print-key)
  uuid=$(cat /proc/sys/kernel/random/uuid)
  echo "{\"cephx_secret\": \"$secret\"}" | admin osd new "$uuid" -i - >/dev/null
  ceph-authtool -C "$DIR/osd.0/keyring" -n osd.0 --add-key "$secret" >/dev/null
  admin osd crush add osd.0 1.0 host=localhost root=default 2>/dev/null
  ceph-osd -c "$DIR/ceph.conf" -i 0 --mkfs --osd-uuid "$uuid" 2>/dev/null
  daemon osd ceph-osd -c "$DIR/ceph.conf" -f -i 0
  until_true 40 "the storage daemon" osd_is_up

  admin auth get-or-create client.rgw mon 'allow rw' osd 'allow rwx' mgr 'allow rw' >"$DIR/rgw.keyring"
  gateway_up "$1"
  radosgw-admin -c "$DIR/ceph.conf" -n client.rgw user create --uid tests --display-name tests >"$DIR/user.json" 2>"$DIR/log/user"
  (
    umask 077
    {
      echo "AWS_ENDPOINT_URL=http://127.0.0.1:$1"
      sed -n 's#\\/#/#g; s/.*"access_key": "\(.*\)".*/AWS_ACCESS_KEY_ID=\1/p; s/.*"secret_key": "\(.*\)".*/AWS_SECRET_ACCESS_KEY=\1/p' "$DIR/user.json"
      echo "AWS_REGION=us-east-1"
      echo "AWS_ALLOW_HTTP=true"
    } >"$DIR/env"
  )
}

DIR=${2:?usage: see the head of this file}
case "$1" in
  up) up "$3" "$4" ;;
  gateway-down) stop rgw ;;
  gateway-up) gateway_up "$3" ;;
  down) stop_all ;;
  *) die "no such command: $1" ;;
esac
