#!/bin/bash -l
# Sends workers of one profile to the queue while jobs of it wait:
#   launch.sh PROFILE [--reserve] [--nlaunches N|infinite] [--sleep SECONDS] [--timeout SECONDS] [--maxjobs_queue N]
# As FireWorks' 'qlaunch rapidfire', but no more workers than the waiting jobs can use.
# With --reserve each allocation is made for one job, with the resources that profiles.yaml gives to its name.
# Only one launcher of a profile runs at a time; a second one says so and leaves.

cluster=<< layout.folder | sh >>
python=<< answers.python | sh >>

profile=${1:-}
case $profile in
    << profile_names >>) ;;
    *)
        echo "usage: $0 << profile_names >> [--reserve] [--help]" >&2
        exit 2
        ;;
esac

cd "$cluster" || exit 1
mkdir -p "launches/$profile" logs || exit 1
export FW_CONFIG_FILE="$cluster/FW_config.yaml"

exec 9>"launches/$profile/.lock"
flock --nonblock 9 || { echo "Another launcher of profile $profile runs already; this one leaves." >&2; exit 0; }
exec "$python" -m atomfoundry.running.cluster.launch --project << layout.project_path | sh >> "$@"
