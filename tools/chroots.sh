# Sourced by tools/check_package and tools/test_drivers after prepare.sh: clean Debian systems to try things in.
# Needs root and debootstrap. The untouched systems are kept in $CHROOTS (default: target/chroots) for the next time;
# $DEBIAN_MIRROR names another mirror than debootstrap's own.

# Makes $work, a temporary folder for copies of systems; it goes at the end, with what is mounted below it.
need_chroots() {
  [ "$(id -u)" = 0 ] || fail "Run this as root: it makes chroots."
  command -v debootstrap >/dev/null 2>&1 || install_packages debootstrap
  systems=$(realpath -m "${CHROOTS:-target/chroots}")
  work=$(mktemp -d)
  trap remove_chroots EXIT
}

remove_chroots() {
  leave_chroots
  # What is still mounted may be someone's files.
  ! grep -q " $work/" /proc/mounts || fail "$work could not be unmounted, and stays"
  rm -rf --one-file-system "$work"
}

# Unmounts whatever is mounted below $work, the latest first.
leave_chroots() {
  awk -v below="$work/" 'index($2, below) == 1 { print $2 }' /proc/mounts | tac |
    # The system writes a space as \040.
    while read -r mounted; do umount "$(printf %b "$mounted")" || true; done
}

# A fresh copy of this suite's system, in $root.
enter_chroot() {
  if [ ! -d "$systems/$1" ]; then
    say "$1: making a system"
    mkdir -p "$systems"
    debootstrap --variant=minbase "$1" "$systems/$1.part" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >/dev/null
    mv "$systems/$1.part" "$systems/$1"
  fi
  root=$work/$1
  cp -a "$systems/$1" "$root"
  mount -t proc proc "$root/proc"
}

in_root() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }
# A mirror may lag behind: the lists of Debian testing are valid for a week only.
update_root() { in_root apt-get update -qq -o Acquire::Check-Valid-Until=false; }
# Options of apt-get, and packages or .deb files.
install_in_root() { in_root apt-get install -qq -o Dpkg::Use-Pty=0 "$@" >/dev/null; }
