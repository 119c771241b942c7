/*-------------------------------------------------------------------------
 *
 * guards.c
 *	  The guards of components, and by which ones the applier has judged.
 *
 *	  The size guard, the bridge guard and the rate guard are settings, so that
 *	  whoever runs the server can change them at once.  The applier writes down
 *	  with which it goes on whenever these are others than before
 *	  (cdp.guard_history).  So it is known by which guards somebody was judged at
 *	  an earlier time, and that those of a session are not those of the past.
 *
 * IDENTIFICATION
 *	  src/identity/guards.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "cdp.h"
#include "identity/graph.h"
#include "statement.h"

static const char *const names[CDP_GUARDS] = {
	"cdp.max_profile_identifiers", "cdp.bridge_guard", "cdp.max_new_identifiers_per_hour"
};

/* the guards in the order of their names above */
static CdpStatement load_guards = {
	"SELECT g.max_profile_identifiers, g.bridge_guard, g.max_new_identifiers_per_hour"
	" FROM cdp.guard_history g WHERE g.since <= $1 ORDER BY g.since DESC LIMIT 1",
	{"timestamptz"}
};

/* the latest version is the one in force, so time does not go back here */
static CdpStatement keep_guards = {
	"INSERT INTO cdp.guard_history (since, max_profile_identifiers, bridge_guard, max_new_identifiers_per_hour)"
	" SELECT CASE WHEN h.last IS NULL THEN '-infinity' ELSE greatest(cdp.clock(), h.last) END, $1, $2, $3"
	" FROM (SELECT max(g.since) AS last FROM cdp.guard_history g) AS h"
	" ON CONFLICT (since) DO UPDATE SET max_profile_identifiers = excluded.max_profile_identifiers,"
	" bridge_guard = excluded.bridge_guard,"
	" max_new_identifiers_per_hour = excluded.max_new_identifiers_per_hour",
	{"int4", "int4", "int4"}
};

static void
present_guards(int32 *guards)
{
	guards[0] = cdp_max_profile_identifiers;
	guards[1] = cdp_bridge_guard;
	guards[2] = cdp_max_new_identifiers_per_hour;
}

/*
 * The guards that were in force at the instant; false: none have been written down.
 */
static bool
guards_at(TimestampTz at, int32 *guards)
{
	Datum		arg = TimestampTzGetDatum(at);
	bool		found = CdpRun(&load_guards, &arg, NULL) > 0;
	int			i;

	for (i = 0; i < CDP_GUARDS && found; i++)
	{
		bool		isnull;

		guards[i] = DatumGetInt32(CdpCell(0, i + 1, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
	return found;
}

bool
CdpGuardsChanged(void)
{
	int32		last[CDP_GUARDS];
	int32		now[CDP_GUARDS];

	present_guards(now);
	return guards_at(DT_NOEND, last) && memcmp(last, now, sizeof(now)) != 0;
}

void
CdpGuardsKeep(void)
{
	int32		last[CDP_GUARDS];
	int32		now[CDP_GUARDS];
	Datum		args[CDP_GUARDS];
	int			i;

	present_guards(now);
	if (guards_at(DT_NOEND, last) && memcmp(last, now, sizeof(now)) == 0)
		return;
	for (i = 0; i < CDP_GUARDS; i++)
		args[i] = Int32GetDatum(now[i]);
	CdpRun(&keep_guards, args, NULL);
}

void
CdpGuardsSet(TimestampTz at)
{
	int32		guards[CDP_GUARDS];
	int			i;

	if (!guards_at(at, guards))
		return;
	for (i = 0; i < CDP_GUARDS; i++)
	{
		char		value[12];

		pg_ltoa(guards[i], value);
		(void) set_config_option(names[i], value, PGC_SUSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	}
}
