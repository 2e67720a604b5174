#!/bin/bash -l
# Sends workers of one profile to the queue while jobs of it wait:
#   launch.sh PROFILE [--reserve] [options of 'qlaunch rapidfire', e.g. --nlaunches infinite --sleep 30]
# With --reserve each allocation is made for one job, with the resources that profiles.yaml gives to its name.
# Only one launcher of a profile runs at a time; a second one leaves at once.

cluster=<< layout.folder | sh >>
python=<< answers.python | sh >>

profile=${1:-}
case $profile in
<% for worker in workers %>
    << worker.profile.name >>) max_queued=<< worker.profile.max_queued >> ;;
<% endfor %>
    *)
        echo "usage: $0 <% for worker in workers %><< worker.profile.name >><% if not loop.last %>|<% endif %><% endfor %> [--reserve] [options of qlaunch rapidfire]" >&2
        exit 2
        ;;
esac
shift
reserve=()
if [ "${1:-}" = --reserve ]; then
    reserve=(-r)
    shift
fi

cd "$cluster" || exit 1
mkdir -p "launches/$profile" logs || exit 1
export FW_CONFIG_FILE="$cluster/FW_config.yaml"
<% if answers.scheduler == "slurm" %>
# FireWorks counts what squeue lists: of this profile alone
export SQUEUE_NAMES="foundry-$profile"
<% endif %>

exec flock --nonblock --conflict-exit-code 0 "launches/$profile/.lock" \
    "$python" -m fireworks.scripts.qlaunch_run "${reserve[@]}" \
    -l my_launchpad.yaml -w "my_fworker_$profile.yaml" -q "my_qadapter_$profile.yaml" \
    --launch_dir "launches/$profile" rapidfire --maxjobs_queue "$max_queued" --sleep 30 "$@"
