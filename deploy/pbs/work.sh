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
        exec /shared/me/atomfoundry/bin/python -m atomfoundry.cli.main worker --project /shared/me/silicon --profile light "$@"
        ;;
    dft)
        export OMP_NUM_THREADS=1
        export ATOMFOUNDRY_PROJECT=/shared/me/silicon
        export FW_CONFIG_FILE=/shared/me/silicon/cluster/FW_config.yaml
        export JOBFLOW_CONFIG_FILE=/shared/me/silicon/cluster/jobflow.yaml
        exec /shared/me/atomfoundry/bin/python -m atomfoundry.cli.main worker --project /shared/me/silicon --profile dft "$@"
        ;;
    gpu)
        export OMP_NUM_THREADS=8
        export ATOMFOUNDRY_PROJECT=/shared/me/silicon
        export FW_CONFIG_FILE=/shared/me/silicon/cluster/FW_config.yaml
        export JOBFLOW_CONFIG_FILE=/shared/me/silicon/cluster/jobflow.yaml
        exec /shared/me/atomfoundry/bin/python -m atomfoundry.cli.main worker --project /shared/me/silicon --profile gpu "$@"
        ;;
    md)
        export OMP_NUM_THREADS=8
        export ATOMFOUNDRY_PROJECT=/shared/me/silicon
        export FW_CONFIG_FILE=/shared/me/silicon/cluster/FW_config.yaml
        export JOBFLOW_CONFIG_FILE=/shared/me/silicon/cluster/jobflow.yaml
        exec /shared/me/atomfoundry/bin/python -m atomfoundry.cli.main worker --project /shared/me/silicon --profile md "$@"
        ;;
    *)
        echo "usage: $0 light|dft|gpu|md [options of atomfoundry worker]" >&2
        exit 2
        ;;
esac
