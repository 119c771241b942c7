/*-------------------------------------------------------------------------
 *
 * profile.c
 *	  Reading one profile: cdp.profile, cdp.timeline, cdp.in_segment; and the
 *	  members of a segment.
 *
 *	  Values and memberships of one profile are computed at the read's
 *	  instant, from what has been applied: a window that has closed since the
 *	  last batch is closed here too.  segment_members and the views show what
 *	  is stored, as of the applied clock.
 *
 * IDENTIFICATION
 *	  src/activate/profile.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "activate/activate.h"
#include "activate/activate.h"
#include "cdp.h"
#include "identity/account.h"
#include "sensitive.h"
#include "statement.h"

/* A read: the definitions and the instant that it is about. */
typedef struct ProfileRead
{
	int64		generation;
	CdpTraitSet *traits;
	CdpSegmentSet *segments;
	CdpProfileNodes nodes;
	TimestampTz now;
	CdpProfileValues values;	/* evaluated once it is asked for */
	const CdpAccountsThen *then;	/* NULL: accounts as they are */
} ProfileRead;

static void
begin_read(ProfileRead *read)
{
	TimestampTz applied;

	memset(read, 0, sizeof(ProfileRead));
	read->generation = CdpApplierGlance(&applied);
	read->now = CdpReadInstant(applied);
	read->traits = CdpTraitSetGet(read->generation);
	read->segments = CdpSegmentSetGet(read->generation, read->traits);
}

/*
 * The profile that the first argument names; false when there is none.
 */
static bool
read_by_identifier(FunctionCallInfo fcinfo, ProfileRead *read)
{
	int64		profile_id;

	begin_read(read);
	profile_id = CdpProfileOfIdentifier(read->generation, PG_GETARG_IDENTIFIER_PP(0));
	return profile_id != 0 && CdpProfileRead(profile_id, read->traits, &read->nodes);
}

static bool
read_by_id(FunctionCallInfo fcinfo, ProfileRead *read)
{
	int64		profile_id = PG_GETARG_INT64(0);

	begin_read(read);
	/* most ids that are asked for have not been merged away */
	if (CdpProfileRead(profile_id, read->traits, &read->nodes))
		return CdpVisibleHook == NULL || CdpVisibleHook(profile_id);
	profile_id = CdpProfileOfNode(profile_id);
	return profile_id != 0 && CdpProfileRead(profile_id, read->traits, &read->nodes);
}

/*
 * The segments that the profile is in now: those in "only", or all.
 */
static CdpProfileEval
evaluate_segments(ProfileRead *read, const Bitmapset *only)
{
	CdpProfileEval profile = {0};

	profile.profile_id = read->nodes.profile_id;
	profile.nbefore = read->nodes.nsegments;
	profile.before = read->nodes.segments;
	profile.nidentifiers = read->nodes.nnodes;
	profile.identifiers = CdpProfileIdentifiers(&read->nodes);
	if (read->values.values == NULL)
		CdpProfileEvaluate(read->traits, read->nodes.accs, read->nodes.nnodes,
						   read->now, &read->values);
	profile.values = read->values;
	if (read->then != NULL)
		profile.primary = read->then->primary;
	else if (read->segments->primary)
		CdpPrimaryAccountRead(read->segments->generation, &profile, read->now);
	CdpSegmentsEvaluateSome(read->segments, &profile, 1, read->now, only, false);
	return profile;
}

/* ---- profile ---- */

static void
push_key(JsonbParseState **state, const char *key)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = unconstify(char *, key);
	value.val.string.len = strlen(key);
	(void) pushJsonbValue(state, WJB_KEY, &value);
}

static void
push_string(JsonbParseState **state, JsonbIteratorToken token, const char *string, int len)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = pnstrdup(string, len);
	value.val.string.len = len;
	(void) pushJsonbValue(state, token, &value);
}

static void
push_time(JsonbParseState **state, TimestampTz at)
{
	char		buffer[MAXDATELEN + 1];

	JsonEncodeDateTime(buffer, TimestampTzGetDatum(at), TIMESTAMPTZOID, NULL);
	push_string(state, WJB_VALUE, buffer, strlen(buffer));
}

static int
compare_nodes(const void *a, const void *b)
{
	const CdpIdentifier *x = ((const CdpProfileNode *) a)->identifier;
	const CdpIdentifier *y = ((const CdpProfileNode *) b)->identifier;
	int			len = Min(VARSIZE_ANY_EXHDR(x), VARSIZE_ANY_EXHDR(y));
	int			result = memcmp(VARDATA_ANY(x), VARDATA_ANY(y), len);

	if (result != 0)
		return result;
	return (int) VARSIZE_ANY_EXHDR(x) - (int) VARSIZE_ANY_EXHDR(y);
}

/*
 * {kind: [value, …], …}.  In bytewise order all identifiers of a kind stand
 * together, since kind: is their prefix.
 */
static void
push_identifiers(JsonbParseState **state, CdpProfileNodes *nodes)
{
	bool		hiding = CdpAnythingHidden();
	const char *kind = NULL;
	int			kindlen = 0;

	qsort(nodes->nodes, nodes->nnodes, sizeof(CdpProfileNode), compare_nodes);
	(void) pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < nodes->nnodes; i++)
	{
		const CdpIdentifier *identifier = nodes->nodes[i].identifier;
		const char *data = VARDATA_ANY(identifier);
		int			len = CdpIdentifierKindLength(identifier);

		if (kind == NULL || len != kindlen || memcmp(kind, data, len) != 0)
		{
			if (kind != NULL)
				(void) pushJsonbValue(state, WJB_END_ARRAY, NULL);
			kind = data;
			kindlen = len;
			push_string(state, WJB_KEY, kind, kindlen);
			(void) pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
		}
		if (hiding && CdpHidden(CDP_SENSITIVE_KIND, data, len))
			push_string(state, WJB_ELEM, CDP_MASK, strlen(CDP_MASK));
		else
			push_string(state, WJB_ELEM, data + len + 1,
						VARSIZE_ANY_EXHDR(identifier) - len - 1);
	}
	if (kind != NULL)
		(void) pushJsonbValue(state, WJB_END_ARRAY, NULL);
	(void) pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

static int
compare_names(const void *a, const void *b)
{
	return strcmp(*(const char *const *) a, *(const char *const *) b);
}

static void
push_segments(JsonbParseState **state, ProfileRead *read)
{
	CdpProfileEval profile = evaluate_segments(read, NULL);
	const char **names = palloc(Max(profile.nafter, 1) * sizeof(char *));
	int			n = 0;

	for (int i = 0; i < profile.nafter; i++)
		if (!CdpSegmentNamed(read->segments, profile.after[i])->hidden)
			names[n++] = CdpSegmentName(read->segments, profile.after[i]);
	qsort(names, n, sizeof(char *), compare_names);
	(void) pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < n; i++)
		push_string(state, WJB_ELEM, names[i], strlen(names[i]));
	(void) pushJsonbValue(state, WJB_END_ARRAY, NULL);
}

static void
push_names(JsonbParseState **state, CdpIdentifier **names, int n)
{
	if (n == 0)
		return;
	push_key(state, "accounts");
	(void) pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < n; i++)
		push_string(state, WJB_ELEM, VARDATA_ANY(names[i]), VARSIZE_ANY_EXHDR(names[i]));
	(void) pushJsonbValue(state, WJB_END_ARRAY, NULL);
}

/*
 * The accounts that it is a member of, the primary one first; nothing at all
 * when there are none.
 */
static void
push_accounts(JsonbParseState **state, ProfileRead *read)
{
	MemoryContext context = CurrentMemoryContext;
	CdpUserContext saved;
	CdpMembership *memberships;
	int			n;

	if (read->then != NULL)
	{
		push_names(state, read->then->accounts, read->then->naccounts);
		return;
	}
	if (!CdpAccountsExist())
		return;
	CdpBecomeOwner(&saved);
	SPI_connect();
	memberships = CdpAccountsOfProfiles(&read->nodes.profile_id, 1, DT_NOEND, &n);
	if (n > 0)
	{
		CdpIdentifier **names = CdpAccountNames(memberships, n);

		MemoryContextSwitchTo(context);
		push_names(state, names, n);
	}
	SPI_finish();
	CdpRestoreUser(&saved);
	MemoryContextSwitchTo(context);
}

static Jsonb *
profile_json(ProfileRead *read)
{
	CdpProfileNodes *nodes = &read->nodes;
	JsonbParseState *state = NULL;
	JsonbValue	value;
	JsonbValue *result;
	Jsonb	   *traits;
	TimestampTz first_seen = nodes->nodes[0].first_seen;
	TimestampTz last_seen = nodes->nodes[0].last_seen;

	for (int i = 1; i < nodes->nnodes; i++)
	{
		first_seen = Min(first_seen, nodes->nodes[i].first_seen);
		last_seen = Max(last_seen, nodes->nodes[i].last_seen);
	}

	/* in the order in which jsonb keeps keys, so that nothing has to be sorted */
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_key(&state, "traits");
	CdpProfileEvaluate(read->traits, nodes->accs, nodes->nnodes, read->now, &read->values);
	traits = CdpProfileValuesJson(read->traits, nodes->accs, nodes->nnodes, &read->values);
	value.type = jbvBinary;
	value.val.binary.data = &traits->root;
	value.val.binary.len = VARSIZE(traits) - VARHDRSZ;
	(void) pushJsonbValue(&state, WJB_VALUE, &value);
	push_accounts(&state, read);
	push_key(&state, "segments");
	push_segments(&state, read);
	push_key(&state, "last_seen");
	push_time(&state, last_seen);
	push_key(&state, "first_seen");
	push_time(&state, first_seen);
	push_key(&state, "profile_id");
	/* who has not been applied yet has no number */
	value.type = jbvNull;
	if (nodes->profile_id != 0)
	{
		value.type = jbvNumeric;
		value.val.numeric = int64_to_numeric(nodes->profile_id);
	}
	(void) pushJsonbValue(&state, WJB_VALUE, &value);
	push_key(&state, "identifiers");
	push_identifiers(&state, nodes);
	result = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(result);
}

Jsonb *
CdpProfileJson(int64 generation, const CdpProfileNodes *nodes, const CdpAccountsThen *then,
			   TimestampTz now)
{
	ProfileRead read = {0};

	read.generation = generation;
	read.now = now;
	read.traits = CdpTraitSetGet(generation);
	read.segments = CdpSegmentSetGet(generation, read.traits);
	read.nodes = *nodes;
	read.then = then;
	return profile_json(&read);
}

PG_FUNCTION_INFO_V1(cdp_profile);

/*
 * cdp.profile(identifier) returns jsonb
 */
Datum
cdp_profile(PG_FUNCTION_ARGS)
{
	ProfileRead read;

	if (!read_by_identifier(fcinfo, &read))
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(profile_json(&read));
}

PG_FUNCTION_INFO_V1(cdp_profile_by_id);

/*
 * cdp.profile(bigint) returns jsonb: also for an id that has been merged away.
 */
Datum
cdp_profile_by_id(PG_FUNCTION_ARGS)
{
	ProfileRead read;


	if (!read_by_id(fcinfo, &read))
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(profile_json(&read));
}

/* ---- in_segment, segment_members ---- */

/*
 * Whether the profile is in the segment now.  Nobody is in no segment.
 */
static bool
in_segment(ProfileRead *read, bool known, const text *name)
{
	CdpProfileEval profile;
	char	   *segment = text_to_cstring(name);
	int			column = CdpSegmentColumnByName(read->segments, segment);

	if (column < 0)
		CdpSegmentMissing(segment);
	if (CdpSegmentWaits(read->segments, column))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("segment \"%s\" is being built", segment),
				 errhint("See cdp.progress; cdp.wait_backfill() waits for it.")));
	if (!known)
		return false;
	profile = evaluate_segments(read, bms_make_singleton(column));
	for (int i = 0; i < profile.nafter; i++)
	{
		if (CdpSegmentColumn(read->segments, profile.after[i]) == column)
			return true;
	}
	return false;
}

PG_FUNCTION_INFO_V1(cdp_in_segment);

/*
 * cdp.in_segment(identifier, segment) returns boolean
 */
Datum
cdp_in_segment(PG_FUNCTION_ARGS)
{
	ProfileRead read;
	bool		known = read_by_identifier(fcinfo, &read);

	/* a name that no segment of profiles has may be one of accounts */
	if (CdpSegmentColumnByName(read.segments, text_to_cstring(PG_GETARG_TEXT_PP(1))) < 0)
	{
		bool		of_accounts;
		bool		is = CdpAccountInSegment(PG_GETARG_IDENTIFIER_PP(0),
											 text_to_cstring(PG_GETARG_TEXT_PP(1)),
											 &of_accounts);

		if (of_accounts)
			PG_RETURN_BOOL(is);
	}
	PG_RETURN_BOOL(in_segment(&read, known, PG_GETARG_TEXT_PP(1)));
}

PG_FUNCTION_INFO_V1(cdp_in_segment_by_id);

/*
 * cdp.in_segment(bigint, segment) returns boolean
 */
Datum
cdp_in_segment_by_id(PG_FUNCTION_ARGS)
{
	ProfileRead read;
	bool		known = read_by_id(fcinfo, &read);

	PG_RETURN_BOOL(in_segment(&read, known, PG_GETARG_TEXT_PP(1)));
}

/*
 * Copy the rows of the last SPI query to the function's result.
 */
static void
put_rows(ReturnSetInfo *rsinfo)
{
	for (uint64 i = 0; i < SPI_processed; i++)
		tuplestore_puttuple(rsinfo->setResult, SPI_tuptable->vals[i]);
}

PG_FUNCTION_INFO_V1(cdp_segment_members);

/*
 * cdp.segment_members(segment) returns setof bigint
 */
Datum
cdp_segment_members(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			types[] = {TEXTOID, INT4OID};
	Datum		args[2];
	CdpUserContext saved;
	SPIPlanPtr	plan;
	Portal		portal;
	bool		isnull;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	args[0] = PG_GETARG_DATUM(0);
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args("SELECT id FROM cdp.segment_definitions WHERE name = $1 AND NOT hidden",
							  1, types, args, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look up a segment");
	if (SPI_processed == 0)
		CdpSegmentMissing(TextDatumGetCString(PG_GETARG_DATUM(0)));
	args[0] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);

	/* by cursor: an audience may be larger than memory */
	plan = SPI_prepare("SELECT profile_id FROM cdp.segment_members"
					   " WHERE segment_id = $1 AND member AND (cdp.visible(profile_id)"
					   " OR EXISTS (SELECT FROM cdp.account_identities a"
					   " WHERE a.account_id = profile_id))", 1, &types[1]);
	portal = SPI_cursor_open(NULL, plan, args, NULL, true);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, 10000);
		if (SPI_processed == 0)
			break;
		put_rows(rsinfo);
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
	SPI_finish();
	CdpRestoreUser(&saved);
	return (Datum) 0;
}

/* ---- timeline ---- */

/*
 * Newest first.  The pieces of a node's history come from the index in that
 * order.  As many of them as rows are wanted are enough, for each has at least
 * one entry that is as late as any in those that follow; so a page of a long
 * history does not cost all of it.
 */
#define TIMELINE \
	" FROM (SELECT e.at, e.entry, e.xid, e.received_at FROM cdp.identities i" \
	" CROSS JOIN LATERAL (SELECT r.* FROM" \
	" (SELECT r.* FROM cdp.unpack_entries(i.recent) r" \
	" UNION ALL" \
	" SELECT r.* FROM (SELECT p.refs FROM cdp.entry_pieces p" \
	" WHERE p.owner = i.node_id AND p.until < $2" \
	" ORDER BY p.owner DESC, p.until DESC FETCH FIRST ($3) ROWS WITH TIES) p" \
	" CROSS JOIN LATERAL cdp.unpack_entries(p.refs) r" \
	" UNION ALL" \
	" SELECT r.* FROM cdp.entry_pieces p CROSS JOIN LATERAL cdp.unpack_entries(p.refs) r" \
	" WHERE p.owner = i.node_id AND p.until >= $2 AND p.since <= $2) r" \
	" WHERE (r.at, r.entry) < ($2, $4) ORDER BY r.at DESC, r.entry DESC LIMIT $3) e" \
	" WHERE i.profile_id = $1 ORDER BY e.at DESC, e.entry DESC LIMIT $3) t" \
	" JOIN cdp.events v ON v.xid = t.xid AND v.id = t.entry" \
	" AND v.received_at = t.received_at"

#define TIMELINE_COLUMNS(properties) \
	" v.type, v.event, cdp.shown(" properties "), cdp.shown(v.context)," \
	" cdp.shown(v.identifiers)," \
	" COALESCE(v.source, 'sql') AS source," \
	" COALESCE(v.message_id, '#' || v.id) AS message_id, v.received_at, v.id"

static const char *const timeline_query =
	"SELECT t.at," TIMELINE_COLUMNS("v.properties") TIMELINE
	" ORDER BY t.at DESC, t.entry DESC";

/* where entries may refer to rows of attached tables, these are read at once */
static const char *const timeline_of_rows_query =
	"WITH v AS MATERIALIZED (SELECT t.at, v.*" TIMELINE "),"
	" r AS MATERIALIZED (SELECT x.* FROM (SELECT array_agg(v.properties) AS properties,"
	" array_agg(v.source) AS sources, array_agg(v.id) AS entries"
	" FROM v WHERE v.properties ? '$row') a"
	" CROSS JOIN LATERAL cdp.entries_properties(a.properties, a.sources, a.entries) x)"
	" SELECT v.at," TIMELINE_COLUMNS("COALESCE(r.said, v.properties)")
	" FROM v LEFT JOIN r ON r.entry = v.id"
	" ORDER BY v.at DESC, v.id DESC";

static Datum
timeline(FunctionCallInfo fcinfo, int64 profile_id)
{
	static SPIPlanPtr plans[2] = {NULL, NULL};
	bool		of_rows = !CdpTableIsVoid("attachment_definitions");
	SPIPlanPtr	plan = plans[of_rows];
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			types[] = {INT8OID, TIMESTAMPTZOID, INT8OID, INT8OID};
	Datum		args[4];
	CdpUserContext saved;

	InitMaterializedSRF(fcinfo, 0);
	if (profile_id == 0)
		return (Datum) 0;
	if (!PG_ARGISNULL(2) && PG_GETARG_INT32(2) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"max\" must not be negative")));
	args[0] = Int64GetDatum(profile_id);
	args[1] = PG_ARGISNULL(1) ? TimestampTzGetDatum(DT_NOEND) : PG_GETARG_DATUM(1);
	args[2] = Int64GetDatum(PG_ARGISNULL(2) ? PG_INT64_MAX : PG_GETARG_INT32(2));
	args[3] = Int64GetDatum(PG_ARGISNULL(3) ? PG_INT64_MIN : PG_GETARG_INT64(3));

	CdpBecomeOwner(&saved);
	SPI_connect();
	if (plan == NULL)
	{
		SPIPlanPtr	prepared = SPI_prepare(of_rows ? timeline_of_rows_query : timeline_query, 4, types);

		if (prepared == NULL || SPI_keepplan(prepared) != 0)
			elog(ERROR, "could not prepare the query of a timeline");
		plan = plans[of_rows] = prepared;
	}
	if (SPI_execute_plan(plan, args, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read a timeline");
	put_rows(rsinfo);
	SPI_finish();
	CdpRestoreUser(&saved);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(cdp_timeline);

/*
 * cdp.timeline(identifier, before, max, before_id)
 */
Datum
cdp_timeline(PG_FUNCTION_ARGS)
{
	return timeline(fcinfo, PG_ARGISNULL(0) ? 0 :
					CdpProfileOfIdentifier(-1, PG_GETARG_IDENTIFIER_PP(0)));
}

PG_FUNCTION_INFO_V1(cdp_timeline_by_id);

/*
 * cdp.timeline(bigint, before, max, before_id)
 */
Datum
cdp_timeline_by_id(PG_FUNCTION_ARGS)
{
	return timeline(fcinfo, PG_ARGISNULL(0) ? 0 : CdpProfileOfNode(PG_GETARG_INT64(0)));
}
