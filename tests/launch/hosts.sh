#!/bin/bash
# Hosts with addresses of their own on one machine: hosts.sh up NAME COUNT | down NAME COUNT | cut NAME HOST
# Host I is the network namespace NAME-I with the address 10.77.0.I; all are linked to a switch in the namespace NAME-0,
# so that no name or address meets another NAME's. "down" ends the processes there, by their numbers.
set -euo pipefail
usage() { echo "usage: hosts.sh up NAME COUNT | down NAME COUNT | cut NAME HOST" >&2; exit 2; }
[[ $# -eq 3 ]] || usage
name=$2 number=$3

up() {
  ip netns add "$name-0"
  ip -n "$name-0" link add switch type bridge
  ip -n "$name-0" link set switch up
  for host in $(seq "$number"); do
    ip netns add "$name-$host"
    ip -n "$name-$host" link add eth0 type veth peer name "port$host" netns "$name-0"
    ip -n "$name-0" link set "port$host" master switch up
    ip -n "$name-$host" addr add "10.77.0.$host/24" dev eth0
    ip -n "$name-$host" link set eth0 up
    ip -n "$name-$host" link set lo up
  done
}

down() {
  for host in $(seq 0 "$number"); do
    for pid in $(ip netns pids "$name-$host" 2>/dev/null); do
      kill -9 "$pid" 2>/dev/null || true
    done
    ip netns del "$name-$host" 2>/dev/null || true
  done
}

cut() { ip -n "$name-$number" link set eth0 down; }

case "$1" in up | down | cut) "$1" ;; *) usage ;; esac
