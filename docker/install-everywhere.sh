#!/usr/bin/env bash
# Installs a wheel into NeMo-RL's driver environment and into every Ray worker environment that exists.
# usage: install-everywhere.sh WHEEL
#
#   UV_PROJECT_ENVIRONMENT  the driver's environment (NeMo-RL's variable; default: /opt/nemo_rl_venv)
#   NEMO_RL_VENV_DIR        folder of the workers' environments (NeMo-RL's variable; default: /opt/ray_venvs)
#
# No version that is there is moved: all are constraints, so only what is missing is added. Safe to repeat.
set -euo pipefail
export LC_ALL=C # one order for sort and comm

fail() {
  echo "install-everywhere: $*" >&2
  exit 1
}

[[ $# -eq 1 ]] || fail "give one wheel: install-everywhere.sh WHEEL"
wheel=$1
[[ $wheel == *.whl && -f $wheel ]] || fail "'$wheel' is not a wheel file"
IFS=- read -r package version _ <<< "$(basename "$wheel")"
command -v uv > /dev/null || fail "uv not found: run this inside NeMo-RL's image, whose environments are uv's"

driver=${UV_PROJECT_ENVIRONMENT:-/opt/nemo_rl_venv}
[[ -x $driver/bin/python ]] || fail "$driver has no bin/python: set UV_PROJECT_ENVIRONMENT to the driver's environment"
environments=("$driver")
for python in "${NEMO_RL_VENV_DIR:-/opt/ray_venvs}"/*/bin/python; do
  [[ -x $python ]] && environments+=("${python%/bin/python}")
done

# Names and versions of one environment, without this package; what was installed from a folder has no version to keep.
versions() {
  uv pip freeze --quiet --python "$1/bin/python" | sort | sed --quiet "/^${package//_/-}==/d; /==/p"
}

before=$(mktemp)
trap 'rm -f "$before"' EXIT
for environment in "${environments[@]}"; do
  versions "$environment" > "$before"
  uv pip install --quiet --link-mode copy --python "$environment/bin/python" --constraint "$before" \
    "$wheel" ||
    fail "$environment cannot take $(basename "$wheel") with the versions that it has; why is said above"
  # -I: from the environment, not from the current folder or PYTHONPATH.
  "$environment/bin/python" -I -c "import $package" || fail "$environment: $package is installed and cannot be imported"
  added=$(versions "$environment" | comm -13 "$before" - | paste --serial --delimiters ' ')
  echo "$package $version in $environment${added:+, with $added}"
done
