#!/bin/sh
# The environments of the peers beside which benchmarks/speed.py measures peftkit: .venv-peers/hf
# and .venv-peers/trl, with the versions of constraints.txt and the newest TRL that goes with them.
#
#     sh benchmarks/peers.sh [PYTHON]
set -eu
cd "$(dirname "$0")/.."
python=${1:-python3}

make_environment() { # NAME PACKAGE...
    bin=.venv-peers/$1/bin
    shift
    test -x "$bin/python" || "$python" -m venv "${bin%/bin}"
    pip="$bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt"
    $pip "$(grep '^torch==' constraints.txt)" # by itself and first, never a version of pip's choice
    $pip "$@"
}

make_environment hf transformers peft accelerate safetensors
make_environment trl transformers peft accelerate safetensors trl
touch .venv-peers/installed
