#!/bin/bash -l
# Finds jobs whose worker died and lets them run again: sweep.sh [options of 'atomfoundry sweep']
exec /shared/me/atomfoundry/bin/python -m atomfoundry.cli.main sweep --project /shared/me/silicon "$@"
