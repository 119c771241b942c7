/*-------------------------------------------------------------------------
 *
 * retention.c
 *	  Entries that have been kept long enough go, as if they had never come.
 *
 *	  The rules are in cdp.retention_rules.  When there is nothing else to do,
 *	  the applier goes through the old part of the log, some pages of each
 *	  partition in a transaction, and deletes what has expired the way an
 *	  erasure deletes a person's entries (erase_rows.c): what they did is
 *	  withdrawn.  Only what they said of consent stays, or a refusal that has
 *	  expired would bring back what was granted before.  Where it is stands in
 *	  memory only, for a pass that begins anew finds nothing twice; the pages of
 *	  a step that is rolled back are gone through again.  Partitions that are
 *	  empty by then are dropped by cdp.drop_expired_partitions().
 *
 * IDENTIFICATION
 *	  src/apply/retention.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "apply/erase.h"
#include "cdp.h"
#include "statement.h"

/* What is worked on at a time, over all partitions. */
#define CHUNK_PAGES		500
#define PASS_EVERY		USECS_PER_HOUR

/* how many partitions the log has, and the pages of the largest */
static CdpStatement old_pages = {
	"SELECT count(*), coalesce(max(pg_relation_size(c.oid) / current_setting('block_size')::int), 0)"
	" FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
	" WHERE i.inhparent = 'cdp.events'::regclass",
	{NULL}
};

/*
 * Of the pages from $1 to $2 of each partition what has expired at $3: by the
 * rule that says most about the entry, of equals by the one that keeps longest.
 * Decisions do not expire, nor does what stands in an attached table.
 */
static CdpStatement expired_rows = {
	"SELECT " CDP_EVENTS_COLUMNS " FROM cdp.events e"
	" WHERE e.ctid >= ('(' || $1 || ',0)')::tid AND e.ctid < ('(' || $2 || ',0)')::tid"
	" AND e.received_at < $4"
	" AND coalesce(e.type, 'track') = ANY ('{track,identify,page,screen,group,leave,alias}')"
	" AND e.received_at < (SELECT cdp.expires_before($3, r.keep) FROM cdp.retention_rules r"
	" WHERE r.kind = '' AND r.trait = '' AND (r.type = '*' OR r.type = coalesce(e.type, 'track'))"
	" AND (r.event = '*' OR r.event = e.event)"
	" AND (r.source = '*' OR r.source = coalesce(e.source, 'sql'))"
	" ORDER BY (r.type <> '*')::int + (r.event <> '*')::int + (r.source <> '*')::int DESC,"
	" cdp.expires_before($3, r.keep) LIMIT 1)"
	" AND NOT EXISTS (SELECT FROM cdp.attached_rows a WHERE a.entry = e.id)",
	{"int8", "int8", "timestamptz", "timestamptz"}
};

/*
 * Which of these words of consent ($1: their places, $2: who speaks, $3: when,
 * $4: the identifiers, $5: the entries' properties) have been said again, later,
 * by the same with these identifiers among others?
 */
static CdpStatement said_again = {
	"WITH x AS MATERIALIZED (SELECT u.n, u.owner, u.at, u.identifiers,"
	" ARRAY(SELECT k FROM jsonb_object_keys(u.said->'preferences') k ORDER BY k COLLATE \"C\") AS keys"
	" FROM (SELECT unnest($1) AS n, unnest($2) AS owner, unnest($3) AS at,"
	" unnest($4) AS identifiers, unnest($5) AS said) u),"
	" latest AS MATERIALIZED (SELECT x.owner, x.identifiers, x.keys, max(x.at) AS at FROM x GROUP BY 1, 2, 3),"
	" known AS MATERIALIZED (SELECT l.owner, l.identifiers, l.keys, greatest(l.at, ("
	" SELECT max(o.at) FROM cdp.identities i CROSS JOIN LATERAL cdp.owned_entries_of(i.node_id) o"
	" JOIN cdp.events e ON e.xid = o.xid AND e.id = o.entry AND e.received_at = o.received_at"
	" WHERE i.identifier = l.owner::cdp.identifier AND o.at > l.at AND NOT o.withheld"
	" AND e.identifiers::text[] @> l.identifiers::text[]"
	" AND cdp.consent_preferences(e.type, e.properties, e.context) ?& l.keys)) AS at FROM latest l)"
	" SELECT x.n FROM x JOIN known k USING (owner, identifiers, keys) WHERE x.at < k.at",
	{"int8[]", "text[]", "timestamptz[]", "text[]", "jsonb[]"}
};

/*
 * The same of what has parts that have expired, with what is left of them.
 */
static CdpStatement expired_parts = {
	"SELECT e.*, coalesce(e.kept_identifiers, e.identifiers), coalesce(e.kept_properties, e.properties)"
	" FROM (SELECT " CDP_EVENTS_COLUMNS ", cdp.kept_identifiers(e.identifiers, e.received_at, $3) AS kept_identifiers,"
	" CASE WHEN e.type IN ('identify', 'group')"
	" THEN cdp.kept_traits(e.properties, e.received_at, $3) END AS kept_properties"
	" FROM cdp.events e"
	" WHERE e.ctid >= ('(' || $1 || ',0)')::tid AND e.ctid < ('(' || $2 || ',0)')::tid"
	" AND e.received_at < $4"
	" AND coalesce(e.type, 'track') = ANY ('{track,identify,page,screen,group,leave,alias}')"
	" AND NOT EXISTS (SELECT FROM cdp.attached_rows a WHERE a.entry = e.id)) e"
	" WHERE e.kept_identifiers IS NOT NULL OR e.kept_properties IS NOT NULL",
	{"int8", "int8", "timestamptz", "timestamptz"}
};

/* where the columns of what is left are among those of expired_parts */
#define KEPT_IDENTIFIERS	(CDP_EVENTS_NATTS + 2)
#define KEPT_PROPERTIES		(CDP_EVENTS_NATTS + 3)
#define PARTS_NATTS			(CDP_EVENTS_NATTS + 4)

/* Nothing that was received later can have expired; of whole entries, of parts. */
static CdpStatement horizon = {
	"SELECT max(cdp.expires_before($1, r.keep)) FILTER (WHERE r.kind = '' AND r.trait = ''),"
	" max(cdp.expires_before($1, r.keep)) FILTER (WHERE r.kind <> '' OR r.trait <> '')"
	" FROM cdp.retention_rules r",
	{"timestamptz"},
	"retention_rules"
};

/* The pass that this process makes. */
static struct
{
	bool		going;
	bool		parts;			/* all entries have been looked at: now parts of them */
	int64		page;
	int64		generation;		/* other rules, or another clock: from the beginning */
	TimestampTz begun;
	TimestampTz next;
	/* the last transaction that made steps, the last of them, where it began */
	TransactionId transaction;
	TransactionId step;
	TimestampTz step_at;		/* by the machine's clock */
	bool		from_parts;
	int64		from;
} pass = {.generation = -1, .begun = DT_NOBEGIN, .next = DT_NOBEGIN};

/*
 * Steps that were rolled back have not been made.
 */
static void
go_back(void)
{
	TransactionId step = pass.step;

	if (!TransactionIdIsValid(step) || TransactionIdIsCurrentTransactionId(step))
		return;
	pass.step = InvalidTransactionId;
	/* what became of it is not known for ever: then from the beginning */
	if (GetCurrentTimestamp() >= pass.step_at + PASS_EVERY)
	{
		pass.going = false;
		pass.next = DT_NOBEGIN;
		return;
	}
	if (TransactionIdDidCommit(step))
		return;
	pass.going = true;
	pass.parts = pass.from_parts;
	pass.page = pass.from;
}

static int
by_number(const void *a, const void *b)
{
	int64		x = (*(CdpReadings *const *) a)->was.id;
	int64		y = (*(CdpReadings *const *) b)->was.id;

	return x < y ? -1 : x > y ? 1 : 0;
}

/*
 * What was said of consent stays, as far as it counts and nothing else has been
 * said since.  Entries that have not been applied yet stay, too, until they are.
 */
static void
keep_words(CdpErasureRows *rows)
{
	int			n = 0;
	int			nwords = 0;
	CdpReadings **list = palloc(sizeof(CdpReadings *) * Max(list_length(rows->exchanged), 1));
	CdpReadings **words;
	int64	   *places;
	Datum	   *owners,
			   *identifiers,
			   *said;
	TimestampTz *ats;
	Datum		args[5];
	Oid			output;
	bool		isvarlena;
	List	   *kept = NIL;
	ListCell   *lc;

	foreach(lc, rows->exchanged)
	{
		CdpReadings *reading = lfirst(lc);

		if (CdpCursorsApplied(rows->applied, reading->was.incarnation, reading->was.xid,
							  reading->was.id))
		{
			kept = lappend(kept, reading);
			if (reading->is.id != 0 && reading->is.type == CDP_ENTRY_CONSENT)
				list[n++] = reading;
		}
	}
	rows->exchanged = kept;
	if (n == 0)
		return;
	qsort(list, n, sizeof(CdpReadings *), by_number);
	CdpFindCounting(list, n);
	words = palloc(sizeof(CdpReadings *) * n);
	places = palloc(sizeof(int64) * n);
	owners = palloc(sizeof(Datum) * n);
	identifiers = palloc(sizeof(Datum) * n);
	said = palloc(sizeof(Datum) * n);
	ats = palloc(sizeof(TimestampTz) * n);
	getTypeOutputInfo(get_array_type(CdpTypeOid("identifier")), &output, &isvarlena);
	for (int i = 0; i < n; i++)
	{
		CdpEntry   *entry = &list[i]->is;

		if (!list[i]->counted)
		{
			entry->id = 0;
			continue;
		}
		list[i]->counted = false;
		places[nwords] = nwords;
		owners[nwords] = PointerGetDatum(CdpGraphOwnerOf(&list[i]->was));
		ats[nwords] = list[i]->was.at;
		identifiers[nwords] = CStringGetTextDatum(OidOutputFunctionCall(output, entry->values[CDP_EVENTS_IDENTIFIERS]));
		said[nwords] = entry->values[CDP_EVENTS_PROPERTIES];
		words[nwords++] = list[i];
	}
	if (nwords == 0)
		return;
	args[0] = CdpInt8Array(places, nwords);
	args[1] = CdpVarlenaArray(owners, NULL, nwords, TEXTOID);
	args[2] = CdpTimestampArray(ats, nwords);
	args[3] = CdpVarlenaArray(identifiers, NULL, nwords, TEXTOID);
	args[4] = CdpVarlenaArray(said, NULL, nwords, JSONBOID);
	CdpRunHere(&said_again, args, NULL);
	for (uint64 r = 0; r < SPI_processed; r++)
		words[CdpCellInt8(r, 1)]->is.id = 0;
	SPI_freetuptable(SPI_tuptable);
}

/*
 * Is there a pass to be gone on with, or to be begun?
 */
bool
CdpRetentionDue(CdpBatch *batch)
{
	TimestampTz now = CdpClock();

	if (CdpTableIsVoid("retention_rules"))
		return CdpRefoldsPending();
	go_back();
	if (pass.generation != batch->applier.generation || now < pass.begun)
	{
		pass.going = false;
		pass.next = DT_NOBEGIN;
	}
	return pass.going || now >= pass.next || CdpRefoldsPending();
}

/*
 * Entries that lose a part: what they were, and what they are.
 */
static void
take_parts(CdpErasureRows *rows)
{
	for (uint64 r = 0; r < SPI_processed; r++)
	{
		CdpReadings *reading = palloc0(sizeof(CdpReadings));
		Datum		values[PARTS_NATTS];
		bool		isnull[PARTS_NATTS];

		CHECK_FOR_INTERRUPTS();
		heap_deform_tuple(SPI_tuptable->vals[r], SPI_tuptable->tupdesc, values, isnull);
		CdpEntryFromRow(&reading->was, values, isnull);
		(void) CdpEntryCheck(&reading->was);
		CdpGraphCheck(rows->batch->graph, &reading->was, 1);
		values[CDP_EVENTS_IDENTIFIERS] = values[KEPT_IDENTIFIERS];
		isnull[CDP_EVENTS_IDENTIFIERS] = isnull[KEPT_IDENTIFIERS];
		values[CDP_EVENTS_PROPERTIES] = values[KEPT_PROPERTIES];
		isnull[CDP_EVENTS_PROPERTIES] = isnull[KEPT_PROPERTIES];
		/* of an entry that names nobody any more only consent is left */
		if ((!isnull[CDP_EVENTS_IDENTIFIERS] &&
			 ARR_NDIM(DatumGetArrayTypeP(values[CDP_EVENTS_IDENTIFIERS])) > 0) ||
			CdpErasureConsentOnly(rows, &reading->was, values, isnull))
			CdpEntryFromRow(&reading->is, values, isnull);
		rows->exchanged = lappend(rows->exchanged, reading);
	}
	SPI_freetuptable(SPI_tuptable);
}

/*
 * One step: how many entries went, or lost something; *more is set when the pass
 * is not at its end.
 */
int64
CdpRetentionStep(CdpBatch *batch, CdpCursorSet *applied, bool *more)
{
	CdpErasure	nobody = {0};
	CdpErasureRows rows = {.batch = batch, .applied = applied, .erasure = &nobody};
	TimestampTz now = CdpClock();
	Datum		args[4];
	Datum		until[2] = {0};
	bool		none[2] = {true, true};
	int64		pages;
	int64		step;
	int64		n = 0;

	if (!pass.going && (now < pass.next || CdpTableIsVoid("retention_rules")))
	{
		(void) CdpRefoldsStep(batch, applied);
		*more = CdpRefoldsPending();
		return 1;
	}
	if (!pass.going)
	{
		pass.going = true;
		pass.parts = false;
		pass.page = 0;
		pass.begun = now;
	}
	pass.generation = batch->applier.generation;
	if (pass.transaction != GetTopTransactionId())
	{
		pass.transaction = GetTopTransactionId();
		pass.from_parts = pass.parts;
		pass.from = pass.page;
	}
	pass.step = GetCurrentTransactionId();
	pass.step_at = GetCurrentTimestamp();
	args[0] = TimestampTzGetDatum(now);
	if (CdpRunHere(&horizon, args, NULL) > 0)
		for (int i = 0; i < 2; i++)
			until[i] = CdpCell(0, i + 1, &none[i]);
	SPI_freetuptable(SPI_tuptable);

	CdpRunHere(&old_pages, NULL, NULL);
	step = Max(CHUNK_PAGES / Max(CdpCellInt8(0, 1), 1), 4);
	pages = CdpCellInt8(0, 2);
	SPI_freetuptable(SPI_tuptable);
	if (!pass.parts && (none[0] || pass.page >= pages))
	{
		pass.parts = true;
		pass.page = 0;
	}
	if (!none[pass.parts] && pass.page < pages)
	{
		nobody.mode = CDP_ERASE_ALL;
		nobody.scrubber = CdpScrubberMake(batch->kinds, NULL, NULL, 0);
		rows.expired = !pass.parts;
		args[0] = Int64GetDatum(pass.page);
		args[1] = Int64GetDatum(pass.page + step);
		args[2] = TimestampTzGetDatum(now);
		args[3] = until[pass.parts];
		CdpRunHere(pass.parts ? &expired_parts : &expired_rows, args, NULL);
		if (pass.parts)
			take_parts(&rows);
		else
			CdpErasureTakeRows(&rows, true);
		keep_words(&rows);
		n = list_length(rows.exchanged);
		CdpErasureExchange(&rows);
		pass.page += step;
	}
	*more = pass.parts ? !none[1] && pass.page < pages : pass.page < pages || !none[1];
	if (!*more)
	{
		pass.going = false;
		pass.next = now + PASS_EVERY;
		*more = CdpRefoldsPending();
	}
	return n;
}
