/*-------------------------------------------------------------------------
 *
 * changes.c
 *	  Write changes and announce them.
 *
 *	  cdp.changes is the truth; NOTIFY is a hint that says where to look.  One
 *	  message goes to each channel that a batch concerns: all of it for one
 *	  change, a range of sequence numbers for several.  Messages are built so
 *	  that they cannot reach NOTIFY's limit of 8,000 bytes.
 *
 *	  A notification queue that is full makes the commit of the notifier fail.
 *	  Above half of the queue (cdp.notify_queue_limit) nothing is announced,
 *	  so that a listener which sleeps in a transaction cannot stop the
 *	  applier; that is counted in cdp.notify_skipped.
 *
 *	  With cdp.emit_logical each change also goes into the WAL as a logical
 *	  message, for consumers that decode it.
 *
 * IDENTIFICATION
 *	  src/activate/changes.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "replication/message.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/json.h"
#include "utils/timestamp.h"

#include "activate/activate.h"
#include "cdp.h"
#include "compat.h"
#include "statement.h"

#define CDP_CHANNEL		"cdp"
#define LOGICAL_PREFIX	"cdp"

/* in the order of the table, so that a row goes into it as it is */
static CdpStatement insert_changes = {
	"INSERT INTO cdp.changes (epoch, seq, kind, entity, profile_id, segment,"
	" payload, cause, occurred_at, at)"
	" SELECT g.epoch, g.seq, g.kind, g.entity, g.profile_id, g.segment, g.payload,"
	" g.cause, g.occurred_at, g.at FROM given g",
	.given = {{"epoch", "int4"}, {"seq", "int8"}, {"kind", "text"}, {"entity", "text"},
	{"profile_id", "int8"}, {"segment", "text"}, {"payload", "jsonb"},
	{"cause", "text"}, {"occurred_at", "timestamptz"}, {"at", "timestamptz"}}
};

static CdpStatement count_skipped = {
	"INSERT INTO cdp.notify_skipped AS n (batches, last_at)"
	" VALUES (1, clock_timestamp())"
	" ON CONFLICT (one) DO UPDATE SET batches = n.batches + 1,"
	" last_at = excluded.last_at",
	{NULL}
};

CdpChange *
CdpChangeAdd(CdpChangeList *list)
{
	CdpChange  *change;

	if (list->n == list->max)
	{
		list->max = Max(64, list->max * 2);
		if (list->items == NULL)
			list->items = palloc(sizeof(CdpChange) * list->max);
		else
			list->items = repalloc_huge(list->items,
										sizeof(CdpChange) * (Size) list->max);
	}
	change = &list->items[list->n++];
	memset(change, 0, sizeof(CdpChange));
	return change;
}

const char *
CdpCauseName(CdpCause cause)
{
	switch (cause)
	{
		case CDP_CAUSE_ENTRY:
			return "entry";
		case CDP_CAUSE_TIMER:
			return "timer";
		case CDP_CAUSE_MERGE:
			return "merge";
		case CDP_CAUSE_SPLIT:
			return "split";
		case CDP_CAUSE_RETRACTION:
			return "retraction";
		case CDP_CAUSE_DEFINITION:
			return "definition";
		case CDP_CAUSE_ERASURE:
			return "erasure";
		case CDP_CAUSE_CONSENT:
			return "consent";
	}
	return "?";
}

static void
append_time(StringInfo buf, TimestampTz at)
{
	char		iso[MAXDATELEN + 1];

	JsonEncodeDateTime(iso, TimestampTzGetDatum(at), TIMESTAMPTZOID, NULL);
	escape_json(buf, iso);
}

/*
 * Each change as a message in the WAL, part of this transaction, with the keys
 * that cdp.changes has as columns.
 */
static void
emit_logical(CdpChangeList *list, int32 epoch, int64 first_seq, TimestampTz at)
{
	StringInfoData buf;
	int			i;

	initStringInfo(&buf);
	for (i = 0; i < list->n; i++)
	{
		CdpChange  *change = &list->items[i];

		resetStringInfo(&buf);
		appendStringInfo(&buf, "{\"v\":1,\"epoch\":%d,\"seq\":%lld,\"kind\":",
						 epoch, (long long) (first_seq + i));
		escape_json(&buf, change->kind);
		appendStringInfoString(&buf, ",\"entity\":");
		escape_json(&buf, change->entity ? change->entity : "profile");
		if (change->profile_id != 0)
			appendStringInfo(&buf, ",\"profile_id\":%lld",
							 (long long) change->profile_id);
		if (change->segment != NULL)
		{
			appendStringInfoString(&buf, ",\"segment\":");
			escape_json(&buf, change->segment->name);
		}
		if (change->payload != NULL)
		{
			appendStringInfoString(&buf, ",\"payload\":");
			(void) JsonbToCString(&buf, &change->payload->root,
								  VARSIZE(change->payload));
		}
		appendStringInfoString(&buf, ",\"cause\":");
		escape_json(&buf, CdpCauseName(change->cause));
		appendStringInfoString(&buf, ",\"occurred_at\":");
		append_time(&buf, change->occurred_at);
		appendStringInfoString(&buf, ",\"at\":");
		append_time(&buf, at);
		appendStringInfoChar(&buf, '}');
		CdpLogLogicalMessage(LOGICAL_PREFIX, buf.data, buf.len);
	}
	pfree(buf.data);
}

void
CdpChangesWrite(CdpChangeList *list, int32 epoch, int64 first_seq,
				TimestampTz at)
{
	CdpGiven   *given = CdpGive(&insert_changes);
	int			i;

	if (list->n == 0)
		return;
	for (i = 0; i < list->n; i++)
	{
		CdpChange  *change = &list->items[i];
		Datum		values[10];
		bool		isnull[10] = {false};

		values[0] = Int32GetDatum(epoch);
		values[1] = Int64GetDatum(first_seq + i);
		values[2] = CStringGetTextDatum(change->kind);
		values[3] = CStringGetTextDatum(change->entity ? change->entity : "profile");
		values[4] = Int64GetDatum(change->profile_id);
		isnull[4] = change->profile_id == 0;
		isnull[5] = change->segment == NULL;
		values[5] = isnull[5] ? (Datum) 0 : CStringGetTextDatum(change->segment->name);
		values[6] = PointerGetDatum(change->payload);
		isnull[6] = change->payload == NULL;
		values[7] = CStringGetTextDatum(CdpCauseName(change->cause));
		values[8] = TimestampTzGetDatum(change->occurred_at);
		values[9] = TimestampTzGetDatum(at);
		CdpGiveRow(given, values, isnull);
	}
	(void) CdpRunGiven(given, NULL, NULL);
	if (cdp_emit_logical && XLogLogicalInfoActive())
		emit_logical(list, epoch, first_seq, at);
}

/*
 * Announce on one channel: "only" when it is about one change, else the range.
 */
static void
announce(const char *channel, const CdpChange *only, int32 epoch,
		 int64 from, int64 to, int64 n, TimestampTz at)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "{\"v\":1,\"epoch\":%d,", epoch);
	if (only != NULL)
	{
		appendStringInfo(&buf, "\"seq\":%lld,\"kind\":", (long long) from);
		escape_json(&buf, only->kind);
		if (only->entity != NULL && strcmp(only->entity, "profile") != 0)
		{
			appendStringInfoString(&buf, ",\"entity\":");
			escape_json(&buf, only->entity);
		}
		if (only->segment != NULL)
		{
			appendStringInfoString(&buf, ",\"segment\":");
			escape_json(&buf, only->segment->name);
		}
		if (only->profile_id != 0)
			appendStringInfo(&buf, ",\"profile_id\":%lld",
							 (long long) only->profile_id);
		appendStringInfoString(&buf, ",\"at\":");
		append_time(&buf, at);
	}
	else
		appendStringInfo(&buf, "\"from\":%lld,\"to\":%lld,\"n\":%lld",
						 (long long) from, (long long) to, (long long) n);
	appendStringInfoChar(&buf, '}');
	Async_Notify(channel, buf.data);
	pfree(buf.data);
}

typedef struct Tally
{
	const CdpSegment *segment;	/* hash key */
	int			first;
	int			last;
	int			n;
} Tally;

void
CdpChangesNotify(CdpChangeList *list, int32 epoch, int64 first_seq,
				 TimestampTz at)
{
	HASHCTL		ctl;
	HTAB	   *tallies;
	HASH_SEQ_STATUS seq;
	Tally	   *tally;
	int			i;

	if (list->n == 0)
		return;
	if (cdp_notify_queue_limit <= 0)
		return;
	if (DatumGetFloat8(OidFunctionCall0(F_PG_NOTIFICATION_QUEUE_USAGE)) >
		cdp_notify_queue_limit)
	{
		CdpRun(&count_skipped, NULL, NULL);
		return;
	}

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(CdpSegment *);
	ctl.entrysize = sizeof(Tally);
	ctl.hcxt = CurrentMemoryContext;
	tallies = hash_create("cdp channels", 64, &ctl,
						  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (i = 0; i < list->n; i++)
	{
		bool		found;

		if (list->items[i].segment == NULL)
			continue;
		tally = hash_search(tallies, &list->items[i].segment, HASH_ENTER,
							&found);
		if (!found)
		{
			tally->first = i;
			tally->n = 0;
		}
		tally->last = i;
		tally->n++;
	}

	announce(CDP_CHANNEL, list->n == 1 ? &list->items[0] : NULL, epoch,
			 first_seq, first_seq + list->n - 1, list->n, at);
	hash_seq_init(&seq, tallies);
	while ((tally = hash_seq_search(&seq)) != NULL)
		announce(tally->segment->channel,
				 tally->n == 1 ? &list->items[tally->first] : NULL, epoch,
				 first_seq + tally->first, first_seq + tally->last, tally->n,
				 at);
	hash_destroy(tallies);
}
