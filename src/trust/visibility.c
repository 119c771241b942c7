/*-------------------------------------------------------------------------
 *
 * visibility.c
 *	  Roles that see some profiles only: the members of segments.
 *
 *	  A rule says that a role sees the members of a segment.  Whoever has the
 *	  rights of a role with rules sees what the rules of all his roles let him
 *	  see together; who has the rights of none sees everybody, and so do
 *	  superusers and the extension's owner.  The session's user decides, as in
 *	  sensitive.c.
 *
 *	  The stations that find a profile for somebody ask through a hook
 *	  (CdpVisible): what is not visible is as good as unknown.  The applier
 *	  does not ask.
 *
 * IDENTIFICATION
 *	  src/trust/visibility.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "cdp.h"
#include "statement.h"
#include "trust/visibility.h"

static CdpStatement read_rules = {
	"SELECT v.role, v.segment_id FROM cdp.visibility_rules v",
	{ NULL },
	"visibility_rules"
};

static CdpStatement is_member = {
	"SELECT FROM cdp.segment_members m"
	" WHERE m.profile_id = $1 AND m.segment_id = ANY ($2) AND m.member",
	{ "int8", "int4[]" }
};

typedef struct Rule
{
	char *role;
	int32 segment_id;
} Rule;

static Rule *rules = NULL;
static int nrules = 0;
static bool loaded = false;
static Oid	table = InvalidOid;
static MemoryContext rules_context = NULL;

static void
forget_rules(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == table)
		loaded = false;
}

static void
load_rules(void)
{
	static bool registered = false;
	bool empty;

	if (loaded)
		return;
	if (!registered)
	{
		CacheRegisterRelcacheCallback(forget_rules, (Datum) 0);
		registered = true;
	}
	if (rules_context == NULL)
		rules_context = AllocSetContextCreate(TopMemoryContext, "cdp visibility rules",
											  ALLOCSET_SMALL_SIZES);
	nrules = 0;
	rules = NULL;
	MemoryContextReset(rules_context);

	/* set first: an invalidation while the table is read counts */
	table = CdpRelationOid("visibility_rules");
	loaded = true;
	PG_TRY();
	{
		empty = CdpTableIsVoid("visibility_rules");
	}
	PG_CATCH();
	{
		loaded = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (empty)
		return;
	PG_TRY();
	{
		CdpUserContext saved;
		MemoryContext old;
		uint64 n;

		CdpBecomeOwner(&saved);
		SPI_connect();
		n = CdpRun(&read_rules, NULL, NULL);
		old = MemoryContextSwitchTo(rules_context);
		rules = palloc_array(Rule, Max(n, 1));
		for (uint64 i = 0; i < n; i++)
		{
			bool isnull;

			rules[i].role = TextDatumGetCString(CdpCell(i, 1, &isnull));
			rules[i].segment_id = DatumGetInt32(CdpCell(i, 2, &isnull));
		}
		nrules = n;
		MemoryContextSwitchTo(old);
		SPI_finish();
		CdpRestoreUser(&saved);
	}
	PG_CATCH();
	{
		loaded = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/*
 * The segments whose members the session's user sees, into an array of nrules;
 * returns their number, -1: he sees everybody.
 */
static int
segments_seen(int32 *segments)
{
	Oid user = GetOuterUserId();
	int n = -1;

	if (superuser_arg(user) || user == CdpExtensionOwner())
		return -1;
	for (int i = 0; i < nrules; i++)
	{
		Oid role = get_role_oid(rules[i].role, true);

		if (!OidIsValid(role) || !has_privs_of_role(user, role))
			continue;
		segments[++n] = rules[i].segment_id;
	}
	return n < 0 ? -1 : n + 1;
}

static bool
is_visible(int64 profile_id)
{
	int32 *segments;
	int n;
	bool visible;
	Datum args[2];
	CdpUserContext saved;

	load_rules();
	if (nrules == 0)
		return true;
	segments = palloc_array(int32, nrules);
	n = segments_seen(segments);
	if (n < 0)
	{
		pfree(segments);
		return true;
	}
	CdpBecomeOwner(&saved);
	SPI_connect();
	args[0] = Int64GetDatum(profile_id);
	args[1] = CdpInt4Array(segments, n);
	visible = CdpRun(&is_member, args, NULL) > 0;
	SPI_finish();
	CdpRestoreUser(&saved);
	pfree(segments);
	return visible;
}

PG_FUNCTION_INFO_V1(cdp_visible);
PG_FUNCTION_INFO_V1(cdp_visibility_changed);

/*
 * cdp.visible(profile_id bigint) returns boolean
 */
Datum
cdp_visible(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(is_visible(PG_GETARG_INT64(0)));
}

/*
 * Trigger on cdp.visibility_rules: all backends read it anew.
 */
Datum
cdp_visibility_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		elog(ERROR, "cdp_visibility_changed: not called by trigger manager");
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	PG_RETURN_POINTER(NULL);
}

void
CdpVisibilityInit(void)
{
	CdpVisibleHook = is_visible;
}
