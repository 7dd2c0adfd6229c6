#!/usr/bin/env bash
# natlab.sh - a small internet of network namespaces on one machine, for what crosses NATs.
# Needs root, iproute2, iptables and conntrack.
#
#   natlab.sh up                    build it; what stood under the same name is torn down first
#   natlab.sh side A|B|C MODE       put another kind of NAT before a host; what ran there loses its net;
#                                   C is there from its first one on
#   natlab.sh weather LOSS_PERCENT  lose so much of the UDP that hosts and NATs receive (0 = none)
#   natlab.sh rebind A|B            the NAT forgets its mappings, as after a restart of the router
#   natlab.sh move A|B NEW_IP       the NAT gets another public address (5.5.x.y)
#   natlab.sh block A|B             from now on the NAT lets no UDP through
#   natlab.sh unblock A|B           until now
#   natlab.sh interface A|B up|down the host's interface comes, or goes
#   natlab.sh renumber A|B NEW_IP   the host behind the NAT gets another address (10.N.0.x)
#   natlab.sh forward A|B OUTSIDE [INSIDE]  the NAT forwards this UDP port to the host
#   natlab.sh firewall A|B PORT     the host itself lets no other UDP port in or out
#   natlab.sh part                  no UDP passes between hosts A and B, as where a carrier filters it
#   natlab.sh join                  it does again
#   natlab.sh down
#
# Environment: LAB (lab)            the name, first part of all namespaces: labs of two names live side by side
#              MODE_A, MODE_B (cone), PUBS (9)  for up: the NATs' modes, and how many public hosts there are
#
# Namespaces: $LAB-pub1..N  public hosts 5.5.0.11, 5.5.0.12, ... (a bridge or client that needs no NAT; DHT nodes)
#             $LAB-hostA 10.1.0.2 behind $LAB-natA 5.5.1.1; B and C likewise with a 2 and a 3
# Modes: open       no NAT: the host has the public address itself
#        cone       keeps the port, lets in only whom the host has written to, by address and port
#        symmetric  another random port for each destination
#        blocked    no UDP passes
# The addresses exist inside the namespaces only: start every program as `ip netns exec $LAB-<name> ...`.
# Nothing is ever made in the namespace that the script is started from. There is loss, but neither
# delay nor reordering: the kernels this has to run on lack netem.
set -euo pipefail

LAB=${LAB:-lab}
MODE_A=${MODE_A:-cone} MODE_B=${MODE_B:-cone} PUBS=${PUBS:-9}

in_ns() { local name=$1; shift; ip netns exec "$LAB-$name" "$@"; }
make() { ip netns add "$LAB-$1"; ip -n "$LAB-$1" link set lo up; }
# A namespace lives on under its processes, but its links go at once.
remove() {
  if [ -e "/run/netns/$LAB-$1" ]; then
    ip -n "$LAB-$1" link del wan0 2>/dev/null || ip -n "$LAB-$1" link del eth0 2>/dev/null || true
    ip netns del "$LAB-$1"
  fi
}

namespaces() { ip netns list | awk '{print $1}' | sed -n "s/^$LAB-\(wan\|nat[ABC]\|host[ABC]\|pub[0-9]*\)$/\1/p"; }
down() { local name; for name in $(namespaces); do remove "$name"; done; }

number() { case $1 in A) echo 1 ;; B) echo 2 ;; C) echo 3 ;; *) echo "no side $1" >&2; exit 2 ;; esac; }
is_open() { [ -z "$(ip -n "$LAB-nat$1" -4 addr show dev lan0)" ]; }

attach() { # name address/prefix interface: plug a namespace into the public switch
  ip -n "$LAB-wan" link add "$1" type veth peer name "$3" netns "$LAB-$1"
  ip -n "$LAB-wan" link set "$1" master br0 up
  [ -z "$2" ] || ip -n "$LAB-$1" addr add "$2" dev "$3"
  ip -n "$LAB-$1" link set "$3" up
}

up() {
  local i
  down
  make wan
  ip -n "$LAB-wan" link add br0 type bridge
  ip -n "$LAB-wan" link set br0 up
  for i in $(seq 1 "$PUBS"); do make "pub$i"; attach "pub$i" "5.5.0.$((10 + i))/16" eth0; done
  side A "$MODE_A"
  side B "$MODE_B"
}

side() { # A|B mode
  local x=$1 mode=$2 n
  n=$(number "$x")
  case $mode in open | cone | symmetric | blocked) ;; *) echo "no mode $mode" >&2; exit 2 ;; esac
  remove "host$x"; remove "nat$x"
  ip -n "$LAB-wan" link del "nat$x" 2>/dev/null || true
  make "nat$x"; make "host$x"
  ip -n "$LAB-nat$x" link add lan0 type veth peer name eth0 netns "$LAB-host$x"
  if [ "$mode" = open ]; then
    attach "nat$x" "" wan0
    ip -n "$LAB-nat$x" link add br1 type bridge
    ip -n "$LAB-nat$x" link set wan0 master br1
    ip -n "$LAB-nat$x" link set lan0 master br1
    ip -n "$LAB-nat$x" link set br1 up
    ip -n "$LAB-host$x" addr add "5.5.$n.1/16" dev eth0
  else
    attach "nat$x" "5.5.$n.1/16" wan0
    ip -n "$LAB-nat$x" addr add "10.$n.0.1/24" dev lan0
    ip -n "$LAB-host$x" addr add "10.$n.0.2/24" dev eth0
  fi
  ip -n "$LAB-nat$x" link set lan0 up
  ip -n "$LAB-host$x" link set eth0 up
  if [ "$mode" != open ]; then
    route_out "$x"
    translate "nat$x" "$mode"
  fi
}

translate() { # name mode
  in_ns "$1" sysctl -qw net.ipv4.ip_forward=1
  case $2 in
    cone) in_ns "$1" iptables -t nat -A POSTROUTING -o wan0 -j MASQUERADE ;;
    symmetric) in_ns "$1" iptables -t nat -A POSTROUTING -o wan0 -p udp -j MASQUERADE --random-fully ;;
    blocked) in_ns "$1" iptables -A FORWARD -p udp -j DROP ;;
  esac
  # Unasked packets must die before conntrack confirms them, or they would take the port that a
  # later punch needs.
  in_ns "$1" iptables -A INPUT -i wan0 -p udp -j DROP
  in_ns "$1" iptables -P FORWARD DROP
  in_ns "$1" iptables -A FORWARD -i lan0 -o wan0 -j ACCEPT
  in_ns "$1" iptables -A FORWARD -i wan0 -o lan0 -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
}

weather() { # loss%
  local name
  for name in $(namespaces); do
    case $name in
      wan) continue ;;
      host?) is_open "${name#host}" || continue ;;
    esac
    in_ns "$name" iptables -t raw -F PREROUTING
    [ "$1" = 0 ] || in_ns "$name" iptables -t raw -A PREROUTING -p udp -m statistic --mode random \
      --probability "$(awk "BEGIN{print $1/100}")" -j DROP
  done
}

rebind() { in_ns "nat$1" conntrack -F >/dev/null 2>&1; }

move() { # A|B address: it replaces the old one, and mappings go with that
  if is_open "$1"; then
    ip -n "$LAB-host$1" addr flush dev eth0
    ip -n "$LAB-host$1" addr add "$2/16" dev eth0
  else
    ip -n "$LAB-nat$1" addr flush dev wan0
    ip -n "$LAB-nat$1" addr add "$2/16" dev wan0
    rebind "$1"
  fi
}

block() { in_ns "nat$1" iptables -I FORWARD -p udp -j DROP; }

unblock() { in_ns "nat$1" iptables -D FORWARD -p udp -j DROP; }

interface() { # A|B up|down: routes go with it
  ip -n "$LAB-host$1" link set eth0 "$2"
  if [ "$2" = up ]; then route_out "$1"; fi
}

renumber() { # A|B address
  ip -n "$LAB-host$1" addr flush dev eth0
  ip -n "$LAB-host$1" addr add "$2/24" dev eth0
  route_out "$1"
}

route_out() { # A|B: where there is a NAT
  is_open "$1" || ip -n "$LAB-host$1" route replace default via "10.$(number "$1").0.1"
}

forward() { # A|B outside [inside]
  local inside=${3:-$2} n
  n=$(number "$1")
  in_ns "nat$1" iptables -t nat -A PREROUTING -i wan0 -p udp --dport "$2" -j DNAT --to-destination "10.$n.0.2:$inside"
  in_ns "nat$1" iptables -I FORWARD -i wan0 -o lan0 -p udp -d "10.$n.0.2" --dport "$inside" -m conntrack --ctstate DNAT -j ACCEPT
}

firewall() { # A|B port
  in_ns "host$1" iptables -A INPUT -i eth0 -p udp ! --dport "$2" -j DROP
  in_ns "host$1" iptables -A OUTPUT -o eth0 -p udp ! --sport "$2" -j DROP
}

edge() { if is_open "$1"; then echo "host$1"; else echo "nat$1"; fi; }

part() {
  in_ns "$(edge A)" iptables -t mangle -A PREROUTING -p udp -s 5.5.2.1 -j DROP
  in_ns "$(edge B)" iptables -t mangle -A PREROUTING -p udp -s 5.5.1.1 -j DROP
}

join() {
  in_ns "$(edge A)" iptables -t mangle -D PREROUTING -p udp -s 5.5.2.1 -j DROP
  in_ns "$(edge B)" iptables -t mangle -D PREROUTING -p udp -s 5.5.1.1 -j DROP
}

command=${1:-}
case $command in
  up | down | part | join) "$command" ;;
  weather | rebind | block | unblock) shift; "$command" "${1:?}" ;;
  side | move | interface | renumber | firewall) shift; "$command" "${1:?}" "${2:?}" ;;
  forward) shift; forward "${1:?}" "${2:?}" "${3:-}" ;;
  *) sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//p}' "$0"; exit 2 ;;
esac
