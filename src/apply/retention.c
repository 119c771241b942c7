/*-------------------------------------------------------------------------
 *
 * retention.c
 *	  Entries that have been kept long enough go, as if they had never come.
 *
 *	  The rules are in cdp.retention_rules.  When there is nothing else to do,
 *	  the applier goes through the old part of the log, some pages of each
 *	  partition in a transaction, and deletes what has expired the way an
 *	  erasure deletes a person's entries (erase_rows.c): what they did is
 *	  withdrawn.  Where it is stands in memory only, for a pass that begins anew
 *	  finds nothing twice; the pages of a step that is rolled back are gone
 *	  through again.  Partitions that are empty by then are dropped by
 *	  cdp.drop_expired_partitions().
 *
 * IDENTIFICATION
 *	  src/apply/retention.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
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
	" WHERE (r.type = '*' OR r.type = coalesce(e.type, 'track'))"
	" AND (r.event = '*' OR r.event = e.event)"
	" AND (r.source = '*' OR r.source = coalesce(e.source, 'sql'))"
	" ORDER BY (r.type <> '*')::int + (r.event <> '*')::int + (r.source <> '*')::int DESC,"
	" cdp.expires_before($3, r.keep) LIMIT 1)"
	" AND NOT EXISTS (SELECT FROM cdp.attached_rows a WHERE a.entry = e.id)",
	{"int8", "int8", "timestamptz", "timestamptz"}
};

/* Nothing that was received later can have expired. */
static CdpStatement horizon = {
	"SELECT max(cdp.expires_before($1, r.keep)) FROM cdp.retention_rules r",
	{"timestamptz"},
	"retention_rules"
};

/* The pass that this process makes. */
static struct
{
	bool		going;
	int64		page;
	int64		generation;		/* other rules, or another clock: from the beginning */
	TimestampTz begun;
	TimestampTz next;
	/* the last transaction that made steps, the last of them, where it began */
	TransactionId transaction;
	TransactionId step;
	TimestampTz step_at;		/* by the machine's clock */
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
	/* what became of it is not known for ever, and not asked after a pass */
	if (GetCurrentTimestamp() < pass.step_at + PASS_EVERY && TransactionIdDidCommit(step))
		return;
	pass.going = true;
	pass.page = pass.from;
}

/*
 * Is there a pass to be gone on with, or to be begun?
 */
bool
CdpRetentionDue(CdpBatch *batch)
{
	TimestampTz now = CdpClock();

	if (CdpTableIsVoid("retention_rules"))
		return false;
	go_back();
	if (pass.generation != batch->applier.generation || now < pass.begun)
	{
		pass.going = false;
		pass.next = DT_NOBEGIN;
	}
	return pass.going || now >= pass.next;
}

/*
 * One step: how many entries went; *more is set when the pass is not at its
 * end.
 */
int64
CdpRetentionStep(CdpBatch *batch, CdpCursorSet *applied, bool *more)
{
	CdpErasure	nobody = {0};
	CdpErasureRows rows = {.batch = batch, .applied = applied, .erasure = &nobody};
	TimestampTz now = CdpClock();
	Datum		args[4];
	int64		pages;
	int64		step;
	int64		n = 0;
	bool		none;

	if (!pass.going)
	{
		pass.going = true;
		pass.page = 0;
		pass.begun = now;
	}
	pass.generation = batch->applier.generation;
	if (pass.transaction != GetTopTransactionId())
	{
		pass.transaction = GetTopTransactionId();
		pass.from = pass.page;
	}
	pass.step = GetCurrentTransactionId();
	pass.step_at = GetCurrentTimestamp();
	args[0] = TimestampTzGetDatum(now);
	if (CdpRunHere(&horizon, args, NULL) == 0)
		none = true;
	else
		args[3] = CdpCell(0, 1, &none);
	SPI_freetuptable(SPI_tuptable);

	CdpRunHere(&old_pages, NULL, NULL);
	step = Max(CHUNK_PAGES / Max(CdpCellInt8(0, 1), 1), 4);
	pages = CdpCellInt8(0, 2);
	SPI_freetuptable(SPI_tuptable);
	if (!none && pass.page < pages)
	{
		nobody.mode = CDP_ERASE_ALL;
		nobody.scrubber = CdpScrubberMake(batch->kinds, NULL, NULL, 0);
		args[0] = Int64GetDatum(pass.page);
		args[1] = Int64GetDatum(pass.page + step);
		args[2] = TimestampTzGetDatum(now);
		n = CdpRunHere(&expired_rows, args, NULL);
		CdpErasureTakeRows(&rows, true);
		CdpErasureExchange(&rows);
		pass.page += step;
	}
	*more = !none && pass.page < pages;
	if (!*more)
	{
		pass.going = false;
		pass.next = now + PASS_EVERY;
	}
	return n;
}
