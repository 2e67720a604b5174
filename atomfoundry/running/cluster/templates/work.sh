#!/bin/bash -l
# Runs a worker of one profile here, e.g. in an interactive allocation:
#   work.sh PROFILE [options of 'atomfoundry worker']

profile=${1:-}
shift
case $profile in
<% for worker in workers %>
    << worker.profile.name >>)
<% for line in worker.prologue.splitlines() %>
        << line >>
<% endfor %>
        exec << worker.command >> "$@"
        ;;
<% endfor %>
    *)
        echo "usage: $0 <% for worker in workers %><< worker.profile.name >><% if not loop.last %>|<% endif %><% endfor %> [options of atomfoundry worker]" >&2
        exit 2
        ;;
esac
