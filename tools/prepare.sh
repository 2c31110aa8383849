# Sourced by the other scripts: checks for Rust and, for tests, a graphics adapter.
# Installs Mesa's software Vulkan driver if tests find no adapter and this is a Debian-based system.

# Prints the step that begins, and the minutes since the start.
say() { printf '== %s (%d:%02d)\n' "$*" $((SECONDS / 60)) $((SECONDS % 60)); }

fail() {
  printf '%s\n' "$*" >&2
  exit 2
}

# Prints the path of the built program; $1: debug or release.
built() {
  program=${CARGO_TARGET_DIR:-target}/$1/mirage
  [ -f "$program" ] || program=$program.exe
  printf '%s' "$program"
}

# Prints the SHA-256 of the network shipped with the program.
shipped_sha256() {
  grep -E '^[0-9a-f]{64} [ *]vgg16-narrow\.safetensors$' weights/SHA256SUMS | cut -d ' ' -f 1 | grep . ||
    fail "weights/SHA256SUMS does not list the network, or has wrong line endings."
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null 2>&1; then
    sudo "$@"
  else
    fail "This needs root rights: $*. Run it as root, then start again."
  fi
}

install_packages() {
  command -v apt-get >/dev/null 2>&1 || fail "Please install: $* (or what your system calls them), then start again."
  say "installing $*"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Installs the requirements of the portability tests: third-party compilers, a browser, and a second Vulkan driver,
# whose file is in $swiftshader. Also installs a first driver if there is none, so packages are installed only once.
need_portability() {
  set --
  command -v spirv-val >/dev/null 2>&1 || set -- "$@" spirv-tools
  command -v glslangValidator >/dev/null 2>&1 || set -- "$@" glslang-tools
  command -v chromium >/dev/null 2>&1 || set -- "$@" chromium
  ls /usr/share/vulkan/icd.d/*.json >/dev/null 2>&1 || set -- "$@" mesa-vulkan-drivers
  [ $# = 0 ] || install_packages "$@"
  swiftshader=/usr/lib/chromium/vk_swiftshader_icd.json
  [ -f "$swiftshader" ] || fail "A Vulkan driver is missing: $swiftshader comes with Debian's package chromium.
On other systems run ./tools/test --without-portability, see docs/portability.md."
}

# Runs a command with only these drivers. $1: driver files separated by colons. (Loaders before 1.3.207 only support the
# second variable.)
with_drivers() {
  drivers=$1
  shift
  VK_DRIVER_FILES=$drivers VK_ICD_FILENAMES=$drivers "$@"
}

# Runs a test command, and fails if no test ran, which cargo reports as success.
some_tests() {
  said=$(mktemp)
  if ! "$@" | tee "$said" || ! grep -q '^test result: ok\. [1-9]' "$said"; then
    rm -f "$said"
    fail "Failed, or no test ran: $*"
  fi
  rm -f "$said"
}

# Tests kernels, network and trajectory on an additional driver. "$1" is a command that takes the name of a test binary
# and the tests' names. The two skipped tests take long and don't add information about a driver.
driver_tests() {
  some_tests "$1" network goldens::
  some_tests "$1" optimise trajectory::ten_steps
  for part in cases:: quirks:: coop_matrix::; do
    some_tests "$1" kernels "$part" --skip few_workgroups_fit --skip unrolled_and_plain
  done
}

# Rust can't be installed from Debian 12: its rustc (1.63) is too old for wgpu.
need_rust() {
  if [ -f "$HOME/.cargo/env" ] && ! command -v cargo >/dev/null 2>&1; then
    . "$HOME/.cargo/env"
  fi
  command -v cargo >/dev/null 2>&1 ||
    fail "Rust is missing. Install it with rustup (https://rustup.rs), then start again."
  have=$(rustc --version | cut -d' ' -f2 | cut -d- -f1)
  want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  [ "$(printf '%s\n' "$want" "$have" | sort -V | head -n 1)" = "$want" ] ||
    fail "Rust $have is too old: $want or newer is needed. Run 'rustup update', then start again."
  case $(rustc -vV) in
    # Rust finds the linker of Visual Studio itself.
    *-msvc*) ;;
    *) command -v cc >/dev/null 2>&1 || install_packages gcc libc6-dev ;;
  esac
}

# Mesa's Wayland code prints warnings on machines without a session.
need_session() {
  if [ -z "${XDG_RUNTIME_DIR:-}" ]; then
    XDG_RUNTIME_DIR=$(mktemp -d)
    export XDG_RUNTIME_DIR
  fi
}

# Ensures that there is a graphics device, for tests of shaders. $1: the built program.
need_adapter() {
  need_session
  case "$("$1" devices 2>/dev/null)" in
    0:*) ;;
    *)
      install_packages mesa-vulkan-drivers
      case "$("$1" devices)" in
        0:*) ;;
        *) fail "No usable graphics adapter was found: the tests of shaders need one." ;;
      esac
      ;;
  esac
  "$1" devices
}
