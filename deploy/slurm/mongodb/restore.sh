#!/bin/bash
# Puts a backup back, in place of what the database holds: restore.sh backups/<date>.archive.gz [DATABASE]
# Stop the launchers and workers first.
set -euo pipefail
archive=$(realpath "${1:?which archive?}")
cd "$(dirname "$0")"
docker compose exec -T ${2:+-e "ATOMFOUNDRY_DATABASE=$2"} mongodb bash -c 'exec mongorestore --quiet \
    --username "$MONGO_INITDB_ROOT_USERNAME" --authenticationDatabase admin \
    --config <(printf "password: %s\n" "$MONGO_INITDB_ROOT_PASSWORD") \
    --nsInclude "$ATOMFOUNDRY_DATABASE.*" --drop --gzip --archive' < "$archive"
