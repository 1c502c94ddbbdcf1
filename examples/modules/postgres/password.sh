# Gives the owner of the data that is there the password that apps are given.
set -euo pipefail
[[ -s $PGDATA/PG_VERSION ]] || exit 0
as=()
if [[ $(id -u) == 0 ]]; then
	as=(setpriv --reuid=postgres --regid=postgres --clear-groups)
fi
# What fails is not logged with its words: the password is one of them.
said=$(printf "ALTER USER \"%s\" PASSWORD '%s'\n" "$POSTGRES_USER" "$POSTGRES_PASSWORD" |
	"${as[@]}" postgres --single -D "$PGDATA" -c log_min_error_statement=panic postgres 2>&1 >/dev/null)
printf '%s\n' "$said" >&2
[[ $said != *ERROR:* && $said != *FATAL:* ]]
