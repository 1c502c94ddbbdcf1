# Gives the owner of the data that is there the password that apps are given,
# and becomes what the image starts.
set -euo pipefail
if [[ -s $PGDATA/PG_VERSION ]]; then
	as=()
	if [[ $(id -u) == 0 ]]; then
		as=(setpriv --reuid=postgres --regid=postgres --clear-groups)
	fi
	# What fails is not logged with its words: the password is one of them. The
	# lock of a database that was killed names this very process: it is no other's.
	failed=0
	said=$(printf "ALTER USER \"%s\" PASSWORD '%s'\n" "$POSTGRES_USER" "$POSTGRES_PASSWORD" |
		PG_GRANDPARENT_PID=$$ "${as[@]}" postgres --single -D "$PGDATA" -c log_min_error_statement=panic postgres 2>&1 >/dev/null) || failed=$?
	printf '%s\n' "$said" >&2
	[[ $failed == 0 && $said != *ERROR:* ]]
fi
if command -v docker-entrypoint.sh >/dev/null; then
	exec docker-entrypoint.sh postgres
fi
exec postgres-entrypoint
