# test/private.sh: a private PostgreSQL with cdp in it, for test, demo, bench.
#
# Sourced by bash scripts.  Gives them
#
#   private_setup        build, copy the installation to a temporary folder,
#                        install cdp there (the system's is never written)
#   private_rebuild [make variable]...   put cdp, built otherwise, in its place
#   private_start [conf line]...   initdb and start a server; exports PGHOST…
#   private_stop         stop it
#   as_server CMD...     run as the user that the server runs as
#
# and these variables:
#
#   $repo   the source tree              $tmp      the temporary folder
#   $work   its copy for the server's user  $bin   the private binaries
#
# PostgreSQL before 18 has no extension_control_path, but it finds its share
# and library folders relative to its own binary.  So the installation (51 MB)
# is copied under $tmp/root and `make install DESTDIR=$tmp/root' puts cdp
# beside it.  PostgreSQL refuses to run as root: then everything below
# as_server runs as "postgres" (or "nobody"), in copies that this user can read.
#
# KEEP=1 keeps the folder; everything started here is stopped by its pid.
# shellcheck shell=bash disable=SC2034

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pg_config=$(command -v "${PG_CONFIG:-pg_config}")	# not what private_setup puts into PATH
unset PGHOST PGPORT PGUSER PGDATABASE PGSERVICE PGOPTIONS PGPASSWORD PGDATA

server_user=
if [ "$(id -u)" -eq 0 ]; then
	server_user=nobody
	if getent passwd postgres >/dev/null; then server_user=postgres; fi
fi

# In a working directory that the server's user cannot enter, such as one in
# root's home, PostgreSQL's programs complain: give them $tmp.
in_tmp()
{
	(cd "$tmp" && as_server "$@")
}

as_server()
{
	if [ -n "$server_user" ]; then
		setpriv --reuid="$server_user" --regid="$(id -g "$server_user")" \
			--clear-groups env HOME="$tmp" USER="$server_user" \
			LOGNAME="$server_user" PATH="$bin:$PATH" "$@"
	else
		env PATH="$bin:$PATH" "$@"
	fi
}

private_cleanup()
{
	local status=$? group file i
	trap - EXIT
	trap '' HUP INT TERM
	# After an interrupt: the test programs that still run (each has its own
	# process group), and the servers that they have started.
	for group in $(jobs -p); do
		kill -TERM -- "-$group" 2>/dev/null || continue
		for ((i = 0; i < 50; i++)); do
			kill -0 -- "-$group" 2>/dev/null || break
			sleep 0.1
		done
	done
	if [ -d "${work:-}/tmp_check" ]; then
		while IFS= read -r file; do
			in_tmp "$bin/pg_ctl" -D "$(dirname "$file")" -s -m immediate stop || true
		done < <(find "$work/tmp_check" -name postmaster.pid)
	fi
	declare -F on_exit >/dev/null && on_exit
	private_stop
	if [ -n "${tmp:-}" ] && [ -d "$tmp" ]; then
		if [ "${KEEP:-}" = 1 ]; then
			echo "kept: $tmp"
		else
			rm -rf "$tmp"
		fi
	fi
	exit $status
}

private_setup()
{
	local bindir pkglibdir sharedir

	bindir=$("$pg_config" --bindir)
	pkglibdir=$("$pg_config" --pkglibdir)
	sharedir=$("$pg_config" --sharedir)

	# A short name: Unix sockets have room for about a hundred characters.
	tmp=$(mktemp -d "${TMPDIR:-/tmp}/cdp.XXXXXX")
	trap private_cleanup EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	chmod 755 "$tmp"
	work=$tmp/src
	bin=$tmp/root$bindir

	echo "# building"
	"${MAKE:-make}" -C "$repo" -s --no-print-directory \
		-j"$(getconf _NPROCESSORS_ONLN)" all >"$tmp/build.log" 2>&1 || {
		cat "$tmp/build.log"
		echo "# the build failed" >&2
		return 1
	}
	local dir
	for dir in "$bindir" "$pkglibdir" "$sharedir"; do
		if [ ! -d "$tmp/root$dir" ]; then
			mkdir -p "$tmp/root$(dirname "$dir")"
			cp -a "$dir" "$tmp/root$dir"
		fi
	done
	# A cdp that is already installed must not shine through.
	rm -f "$tmp/root$pkglibdir"/cdp.so "$tmp/root$sharedir"/extension/cdp[.-]*
	"${MAKE:-make}" -C "$repo" -s --no-print-directory install \
		DESTDIR="$tmp/root" >>"$tmp/build.log" 2>&1 || {
		cat "$tmp/build.log"
		return 1
	}

	# What the server's user has to read, and a place where it may write.
	mkdir -p "$work"
	(cd "$repo" && tar -cf - README.md CHANGELOG.md META.json cdp.control Makefile \
		sql doc test expected bench demo dbt examples 2>/dev/null) | tar -xf - -C "$work"
	local data=${CDP_SHARED_DATA:-$repo/../shared/data}
	if [ -d "$data" ]; then
		mkdir -p "$tmp/shared"
		cp -rL "$data" "$tmp/shared/data"
		chmod -R u+w "$tmp/shared"
	fi
	# Tests find it as ../shared/data too, relative to the copy of the tree.
	export CDP_SHARED_DATA=$tmp/shared/data
	[ -z "$server_user" ] || chown -R "$server_user" "$tmp/src" "$tmp/shared" 2>/dev/null || true
	mkdir -p "$tmp/pg"
	[ -z "$server_user" ] || chown "$server_user" "$tmp/pg"
}

# The sources that it is built from are in $tmp/other.
private_rebuild()
{
	mkdir "$tmp/other"
	(cd "$repo" && tar -cf - --exclude='*.o' --exclude='*.so' cdp.control Makefile sql src test/redzones.h) |
		tar -xf - -C "$tmp/other"
	"${MAKE:-make}" -C "$tmp/other" -s --no-print-directory \
		-j"$(getconf _NPROCESSORS_ONLN)" "$@" all >"$tmp/build.log" 2>&1 || {
		cat "$tmp/build.log"
		return 1
	}
	install -m 755 "$tmp/other/cdp.so" "$tmp/root$("$pg_config" --pkglibdir)/cdp.so"
}

private_start()
{
	local line

	in_tmp "$bin/initdb" -D "$tmp/pg/data" -U postgres -A trust -N \
		--locale=C.UTF-8 --encoding=UTF8 >"$tmp/initdb.log" 2>&1 || {
		cat "$tmp/initdb.log"
		return 1
	}
	{
		echo "listen_addresses = ''"
		echo "unix_socket_directories = '$tmp/pg'"
		echo "fsync = off"
		echo "max_prepared_transactions = 10"
		for line in "$@"; do echo "$line"; done
	} | as_server tee -a "$tmp/pg/data/postgresql.conf" >/dev/null
	in_tmp "$bin/pg_ctl" -D "$tmp/pg/data" -l "$tmp/pg/log" -s -w start || {
		cat "$tmp/pg/log"
		return 1
	}
	export PGHOST=$tmp/pg PGUSER=postgres PGDATABASE=postgres
	export PATH="$bin:$PATH"
}

private_stop()
{
	if [ -n "${tmp:-}" ] && [ -f "$tmp/pg/data/postmaster.pid" ]; then
		in_tmp "$bin/pg_ctl" -D "$tmp/pg/data" -s -m immediate stop || true
	fi
}
