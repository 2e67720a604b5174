#!/bin/bash -l
# Runs a worker of one profile here, e.g. in an interactive allocation:
#   work.sh PROFILE [options of 'atomfoundry worker']

profile=${1:-}
shift
case $profile in
    light)
        export OMP_NUM_THREADS=1
        export ATOMFOUNDRY_PROJECT=/shared/me/silicon
        export FW_CONFIG_FILE=/shared/me/silicon/cluster/FW_config.yaml
        export JOBFLOW_CONFIG_FILE=/shared/me/silicon/cluster/jobflow.yaml
        exec /shared/me/atomfoundry/bin/python -m atomfoundry.cli.main worker --project /shared/me/silicon --category light --parallel 4 --threads 1 "$@"
        ;;
    dft)
        export OMP_NUM_THREADS=1
        export ATOMFOUNDRY_PROJECT=/shared/me/silicon
        export FW_CONFIG_FILE=/shared/me/silicon/cluster/FW_config.yaml
        export JOBFLOW_CONFIG_FILE=/shared/me/silicon/cluster/jobflow.yaml
        exec /shared/me/atomfoundry/bin/python -m atomfoundry.cli.main worker --project /shared/me/silicon --category dft --parallel 1 --threads 1 "$@"
        ;;
    gpu)
        export OMP_NUM_THREADS=8
        export ATOMFOUNDRY_PROJECT=/shared/me/silicon
        export FW_CONFIG_FILE=/shared/me/silicon/cluster/FW_config.yaml
        export JOBFLOW_CONFIG_FILE=/shared/me/silicon/cluster/jobflow.yaml
        exec /shared/me/atomfoundry/bin/python -m atomfoundry.cli.main worker --project /shared/me/silicon --category gpu --parallel 1 --threads 8 "$@"
        ;;
    md)
        export OMP_NUM_THREADS=8
        export ATOMFOUNDRY_PROJECT=/shared/me/silicon
        export FW_CONFIG_FILE=/shared/me/silicon/cluster/FW_config.yaml
        export JOBFLOW_CONFIG_FILE=/shared/me/silicon/cluster/jobflow.yaml
        exec /shared/me/atomfoundry/bin/python -m atomfoundry.cli.main worker --project /shared/me/silicon --category md --parallel 1 --threads 8 "$@"
        ;;
    *)
        echo "usage: $0 light|dft|gpu|md [options of atomfoundry worker]" >&2
        exit 2
        ;;
esac
