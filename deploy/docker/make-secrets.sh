#!/bin/sh
# Makes the keys that deploy/compose.yaml hands to its containers, in deploy/secrets; keeps those
# that are there. The folder is yours alone; the files in it can be read by the containers' users,
# who see the files and not the folder.
set -eu
folder="$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)/secrets"
umask 077
mkdir -p "$folder"
chmod 0700 "$folder"
for name in qdrant_api_key grafana_admin_password; do
  file="$folder/$name"
  if [ -e "$file" ]; then
    echo "$name: is there"
    continue
  fi
  # No end of line: Grafana and Qdrant would take it for a part of the secret.
  key="$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')"
  printf '%s' "$key" >"$file.part"
  chmod 0444 "$file.part"
  mv "$file.part" "$file"
  echo "$name: made"
done
