#!/bin/bash
# Run by the image postgres when it makes its cluster: the role and the database of NetRecon Webhooks. The role owns its
# database and is no superuser.
set -euo pipefail

# A here-document, because a command line can be read by others.
psql -X -q -v ON_ERROR_STOP=1 --username postgres --dbname postgres <<SQL
CREATE ROLE netrecon LOGIN PASSWORD '$(</run/secrets/database_password)';
CREATE DATABASE netrecon OWNER netrecon;
SQL
