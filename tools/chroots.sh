# Sourced by tools/check_package and tools/test_drivers after prepare.sh: creates clean Debian systems for tests.
# Needs root and debootstrap. The unmodified systems are kept in $CHROOTS (default: target/chroots) for the next run;
# $DEBIAN_MIRROR overrides debootstrap's default mirror.

# Creates $work, a temporary folder for copies of systems. It is unmounted and removed at exit.
need_chroots() {
  [ "$(id -u)" = 0 ] || fail "Run this as root: it creates chroots."
  command -v debootstrap >/dev/null 2>&1 || install_packages debootstrap
  systems=$(realpath -m "${CHROOTS:-target/chroots}")
  case $systems in *" "*) fail "debootstrap can't use a path with spaces: set CHROOTS to another folder than $systems" ;; esac
  work=$(mktemp -d)
  trap remove_chroots EXIT
}

remove_chroots() {
  leave_chroots
  # Anything still mounted may be files of the user.
  ! grep -q " $work/" /proc/mounts || fail "$work could not be unmounted and was not removed"
  rm -rf --one-file-system "$work"
}

# Unmounts everything below $work, the latest first.
leave_chroots() {
  awk -v below="$work/" 'index($2, below) == 1 { print $2 }' /proc/mounts | tac |
    # /proc/mounts contains a space as \040.
    while read -r mounted; do umount "$(printf %b "$mounted")" || true; done
}

# Creates a fresh copy of the suite's system in $root.
enter_chroot() {
  if [ ! -d "$systems/$1" ]; then
    say "$1: creating a system"
    mkdir -p "$systems"
    debootstrap --variant=minbase "$1" "$systems/$1.part" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >/dev/null
    mv "$systems/$1.part" "$systems/$1"
  fi
  root=$work/$1
  cp -a "$systems/$1" "$root"
  mount -t proc proc "$root/proc"
}

in_root() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }
# A mirror may be outdated: the lists of Debian testing are only valid for a week.
update_root() { in_root apt-get update -qq -o Acquire::Check-Valid-Until=false; }
# Takes options of apt-get, and packages or .deb files.
install_in_root() { in_root apt-get install -qq -o Dpkg::Use-Pty=0 "$@" >/dev/null; }
