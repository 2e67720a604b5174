#!/bin/bash -l
# Finds jobs whose worker died and lets them run again: sweep.sh [options of 'atomfoundry sweep']
exec << answers.python | sh >> -m atomfoundry.cli.main sweep --project << layout.project_path | sh >> "$@"
