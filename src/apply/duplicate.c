/*-------------------------------------------------------------------------
 *
 * duplicate.c
 *	  Entries of the same source and message id: which one counts.
 *
 *	  Of all copies that are not rejected the one with the smallest (time,
 *	  contents) counts, whichever comes first.  So a copy that comes later can
 *	  replace one that has been applied; what that did is then taken back.
 *
 *	  Most messages have no second copy, and to prove it by the log's index
 *	  costs more than folding the entry.  So an applier keeps a Bloom filter of
 *	  the messages that have been applied, and probes only for those that it
 *	  cannot rule out.  The filter is good as long as nobody else has applied
 *	  anything (cdp.applier.token, see identity/nodes.c).  It is built once the
 *	  probes made without it have cost about what building it costs.
 *
 * IDENTIFICATION
 *	  src/apply/duplicate.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "lib/bloomfilter.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "apply/batch.h"
#include "cdp.h"
#include "statement.h"

/*
 * A message: the tie, and how much of it is the source, for both parts may
 * contain what stands between them.
 */
typedef struct MessageKey
{
	text	   *tie;
	Size		source;
} MessageKey;

/* All copies of a message that this batch knows; keyed by contents. */
typedef struct Message
{
	MessageKey	key;			/* hash key */
	int			best;			/* index in the batch, -1: none */
	CdpEntry   *applied;		/* the copy that counts so far, NULL: none */
} Message;

/* Beyond so many messages a filter is not worth its memory. */
#define MAX_FILTERED	INT64CONST(50000000)

static struct
{
	MemoryContext context;
	bloom_filter *filter;		/* NULL: not built */
	int64		capacity;
	int64		n;
	int64		token;			/* 0: a batch is at work, or one has failed */
	int64		probed;			/* messages looked up without a filter */
}			applied_messages;

static CdpStatement all_messages = {
	"SELECT e.source, e.message_id, e.incarnation, e.xid, e.id"
	" FROM cdp.events e WHERE e.message_id IS NOT NULL",
	{NULL}
};

/* copies in the log, but for the batch's own row */
static CdpStatement find_copies = {
	"SELECT " CDP_EVENTS_COLUMNS
	" FROM (SELECT unnest($1) AS hash, unnest($2) AS id) AS u"
	" JOIN cdp.events e ON cdp.message_hash(e.source, e.message_id) = u.hash"
	" AND e.message_id IS NOT NULL AND e.id <> u.id",
	{"int8[]", "int8[]"}
};

static CdpStatement contents = {
	"SELECT cdp.content_hash(e) FROM cdp.events e WHERE e.xid = $1 AND e.id = $2"
	" AND e.incarnation = $3",
	{"int8", "int8", "int4"}
};

static uint32
tie_hash(const void *key, Size keysize)
{
	text	   *tie = ((const MessageKey *) key)->tie;

	return hash_bytes((const unsigned char *) VARDATA_ANY(tie),
					  VARSIZE_ANY_EXHDR(tie));
}

static int
tie_match(const void *key1, const void *key2, Size keysize)
{
	const MessageKey *a = key1;
	const MessageKey *b = key2;

	if (a->source != b->source)
		return 1;
	return CdpOrderCompare(0, a->tie, 0, b->tie);
}

static MessageKey
message_key(CdpEntry *entry)
{
	MessageKey	key;

	key.tie = entry->tie;
	key.source = VARSIZE_ANY_EXHDR(entry->source);
	return key;
}

static char *
content_hash(CdpEntry *entry)
{
	Datum		args[3];
	char	   *hash;

	args[0] = Int64GetDatum(entry->xid);
	args[1] = Int64GetDatum(entry->id);
	args[2] = Int32GetDatum(entry->incarnation);
	if (CdpRun(&contents, args, NULL) != 1)
		elog(ERROR, "entry %lld is not in the log", (long long) entry->id);
	hash = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	hash = pstrdup(hash ? hash : "");
	SPI_freetuptable(SPI_tuptable);
	return hash;
}

/*
 * Does copy a count rather than copy b?  Of equal contents at the same time the
 * one with the smaller id counts: any fixed choice would do, but it must be
 * the same in every batch, for the copy that counts is looked for among all
 * that were applied.
 */
bool
CdpEntryOutdoes(CdpEntry *a, CdpEntry *b)
{
	int			cmp;

	if (a->at != b->at)
		return a->at < b->at;
	cmp = strcmp(content_hash(a), content_hash(b));
	return cmp != 0 ? cmp < 0 : a->id < b->id;
}

static HTAB *
make_messages(int n)
{
	HASHCTL		ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(MessageKey);
	ctl.entrysize = sizeof(Message);
	ctl.hash = tie_hash;
	ctl.match = tie_match;
	ctl.hcxt = CurrentMemoryContext;
	return hash_create("cdp messages", Max(n, 16), &ctl,
					   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE |
					   HASH_CONTEXT);
}

static Message *
find_message(HTAB *messages, CdpEntry *entry)
{
	bool		found;
	MessageKey	key = message_key(entry);
	Message    *message = hash_search(messages, &key, HASH_ENTER, &found);

	if (!found)
	{
		message->best = -1;
		message->applied = NULL;
	}
	return message;
}

/*
 * Is the entry in the batch?  What is read again has been applied and is in the
 * batch nevertheless.
 */
static bool
in_batch(CdpBatch *batch, int64 id)
{
	int			i;

	for (i = 0; i < batch->nentries; i++)
		if (batch->entries[i].id == id)
			return true;
	return false;
}

/*
 * The applied copies of the batch's messages: those in the log that earlier
 * batches have read and not refused.
 */
static void
load_applied(CdpBatch *batch, CdpCursorSet *before, HTAB *messages,
			 int64 *hashes, int64 *ids, int n)
{
	Datum		args[2];
	SPITupleTable *rows;
	uint64		nrows;
	uint64		i;

	args[0] = CdpInt8Array(hashes, n);
	args[1] = CdpInt8Array(ids, n);
	nrows = CdpRun(&find_copies, args, NULL);
	rows = SPI_tuptable;
	for (i = 0; i < nrows; i++)
	{
		Datum		values[CDP_EVENTS_NATTS];
		bool		isnull[CDP_EVENTS_NATTS];
		CdpEntry   *copy;
		MessageKey	key;
		Message    *message;

		heap_deform_tuple(rows->vals[i], rows->tupdesc, values, isnull);
		if (!CdpCursorsApplied(before,
							   DatumGetInt32(values[CDP_EVENTS_INCARNATION]),
							   DatumGetInt64(values[CDP_EVENTS_XID]),
							   DatumGetInt64(values[CDP_EVENTS_ID])))
			continue;
		if (batch->rereading &&
			in_batch(batch, DatumGetInt64(values[CDP_EVENTS_ID])))
			continue;
		copy = palloc(sizeof(CdpEntry));
		CdpEntryFromRow(copy, values, isnull);
		key = message_key(copy);
		message = hash_search(messages, &key, HASH_FIND, NULL);
		if (message == NULL)
			continue;			/* another message with the same hash */
		if (message->applied != NULL && message->applied->id == copy->id)
			continue;
		(void) CdpEntryJudge(copy);
		CdpGraphCheck(batch->graph, copy, 1);
		if (copy->reject_reason != NULL)
			continue;
		if (message->applied == NULL || CdpEntryOutdoes(copy, message->applied))
			message->applied = copy;
	}
	SPI_freetuptable(rows);
}

List *
CdpAppliedMessages(CdpBatch *batch, CdpCursorSet *before, text **sources,
				   text **message_ids, int n)
{
	HTAB	   *messages = make_messages(n);
	HASH_SEQ_STATUS seq;
	Message    *message;
	int64	   *hashes = palloc(sizeof(int64) * Max(n, 1));
	int64	   *ids = palloc0(sizeof(int64) * Max(n, 1));
	List	   *result = NIL;
	int			i;

	for (i = 0; i < n; i++)
	{
		CdpEntry	entry = {.source = sources[i],
		.tie = CdpMakeTie(sources[i], message_ids[i])};

		(void) find_message(messages, &entry);
		hashes[i] = CdpMessageHash(sources[i], message_ids[i]);
	}
	load_applied(batch, before, messages, hashes, ids, n);
	hash_seq_init(&seq, messages);
	while ((message = hash_seq_search(&seq)) != NULL)
		if (message->applied != NULL)
			result = lappend(result, message->applied);
	return result;
}

static void
forget_filter(void)
{
	if (applied_messages.context != NULL)
		MemoryContextDelete(applied_messages.context);
	applied_messages.context = NULL;
	applied_messages.filter = NULL;
	applied_messages.token = 0;
}

static void
add_message(int64 hash)
{
	bloom_add_element(applied_messages.filter, (unsigned char *) &hash,
					  sizeof(hash));
	applied_messages.n++;
}

/*
 * Build the filter from the log.
 */
static void
build_filter(CdpBatch *batch, CdpCursorSet *before)
{
	MemoryContext old;
	MemoryContext chunk;
	Portal		portal;
	int			work_mem_kb;

	forget_filter();
	applied_messages.capacity = Max(1000000, 2 * batch->applier.entries);
	applied_messages.n = 0;
	applied_messages.context = AllocSetContextCreate(TopMemoryContext,
													 "cdp messages",
													 ALLOCSET_SMALL_SIZES);
	work_mem_kb = (int) (applied_messages.capacity * 2 / 1024);
	old = MemoryContextSwitchTo(applied_messages.context);
	applied_messages.filter = bloom_create(applied_messages.capacity,
										   work_mem_kb, 0);
	MemoryContextSwitchTo(old);
	if (batch->applier.entries == 0)
		return;

	CdpPrepare(&all_messages);
	portal = SPI_cursor_open(NULL, all_messages.plan, NULL, NULL, false);
	chunk = AllocSetContextCreate(CurrentMemoryContext, "cdp messages chunk",
								  ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(chunk);
	for (;;)
	{
		uint64		i;

		CHECK_FOR_INTERRUPTS();
		if (CdpFetchHere(portal, 10000) == 0)
			break;
		for (i = 0; i < SPI_processed; i++)
		{
			bool		isnull;
			Datum		source = CdpCell(i, 1, &isnull);
			text	   *s = isnull ? cstring_to_text("") : DatumGetTextPP(source);
			text	   *m = DatumGetTextPP(CdpCell(i, 2, &isnull));

			if (CdpCursorsApplied(before, DatumGetInt32(CdpCell(i, 3, &isnull)),
								  CdpCellInt8(i, 4), CdpCellInt8(i, 5)))
				add_message(CdpMessageHash(s, m));
		}
		SPI_freetuptable(SPI_tuptable);
		MemoryContextReset(chunk);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(chunk);
	SPI_cursor_close(portal);
}

/*
 * Is there a filter for this batch?  Builds it when it is due.
 */
static bool
have_filter(CdpBatch *batch, CdpCursorSet *before)
{
	bool		valid = applied_messages.filter != NULL &&
		applied_messages.token == batch->applier.token &&
		applied_messages.n + batch->nentries <= applied_messages.capacity;

	applied_messages.token = 0;
	if (valid)
		return true;
	if (batch->replaying || batch->applier.entries > MAX_FILTERED / 2 ||
		applied_messages.probed < batch->applier.entries / 5)
	{
		forget_filter();
		applied_messages.probed += batch->nentries;
		return false;
	}
	applied_messages.probed = 0;
	build_filter(batch, before);
	return true;
}

/*
 * A batch begins that may look for no duplicates: see that the filter is not
 * taken for good afterwards when others have applied entries since.
 */
void
CdpMessagesBegin(CdpBatch *batch)
{
	if (applied_messages.token != batch->applier.token)
		forget_filter();
}

/*
 * The batch has been written, under this token.
 */
void
CdpMessagesEnd(CdpBatch *batch)
{
	int			i;

	if (applied_messages.filter == NULL)
		return;
	for (i = 0; i < batch->nread; i++)
	{
		CdpEntry   *entry = &batch->entries[i];

		if (entry->message_id != NULL)
			add_message(CdpMessageHash(entry->source, entry->message_id));
	}
	applied_messages.token = batch->applier.token;
}

/*
 * Clear counts[] of the batch's entries that another copy outdoes; returns the
 * applied entries that a copy in this batch replaces (list of CdpEntry *).
 */
List *
CdpFindDuplicates(CdpBatch *batch, CdpCursorSet *before)
{
	HTAB	   *messages;
	HASH_SEQ_STATUS seq;
	Message    *message;
	int64	   *hashes = palloc(sizeof(int64) * Max(batch->nentries, 1));
	int64	   *ids = palloc(sizeof(int64) * Max(batch->nentries, 1));
	List	   *replaced = NIL;
	bool		filtered = have_filter(batch, before);
	int			n = 0;
	int			i;

	messages = make_messages(batch->nentries);
	for (i = 0; i < batch->nentries; i++)
	{
		CdpEntry   *entry = &batch->entries[i];

		if (!batch->counts[i] || entry->message_id == NULL)
			continue;
		message = find_message(messages, entry);
		hashes[n] = CdpMessageHash(entry->source, entry->message_id);
		ids[n] = entry->id;
		if (!filtered ||
			!bloom_lacks_element(applied_messages.filter,
								 (unsigned char *) &hashes[n], sizeof(int64)))
			n++;
		if (message->best < 0)
			message->best = i;
		else if (CdpEntryOutdoes(entry, &batch->entries[message->best]))
		{
			CdpHistoryOutdone(batch, &batch->entries[message->best], entry);
			batch->counts[message->best] = false;
			message->best = i;
		}
		else
		{
			CdpHistoryOutdone(batch, entry, &batch->entries[message->best]);
			batch->counts[i] = false;
		}
	}
	if (n == 0)
		return NIL;
	load_applied(batch, before, messages, hashes, ids, n);

	hash_seq_init(&seq, messages);
	while ((message = hash_seq_search(&seq)) != NULL)
	{
		if (message->applied == NULL)
			continue;
		if (CdpEntryOutdoes(&batch->entries[message->best], message->applied))
			replaced = lappend(replaced, message->applied);
		else
		{
			CdpHistoryOutdone(batch, &batch->entries[message->best],
							  message->applied);
			batch->counts[message->best] = false;
		}
	}
	return replaced;
}
