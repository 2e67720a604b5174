#!/bin/bash
# Writes backups/<date>.archive.gz while the server runs: backup.sh [DATABASE]; default that of the first project of
# this server. The password appears in no list of processes.
set -euo pipefail
cd "$(dirname "$0")"
umask 077
mkdir -p backups
target=backups/${1:+$1-}$(date -u +%Y-%m-%dT%H%M%SZ).archive.gz
docker compose exec -T ${1:+-e "ATOMFOUNDRY_DATABASE=$1"} mongodb bash -c 'exec mongodump --quiet \
    --username "$MONGO_INITDB_ROOT_USERNAME" --authenticationDatabase admin \
    --config <(printf "password: %s\n" "$MONGO_INITDB_ROOT_PASSWORD") \
    --db "$ATOMFOUNDRY_DATABASE" --gzip --archive' > "$target.part"
mv "$target.part" "$target"
echo "$target"
