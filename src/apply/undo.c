/*-------------------------------------------------------------------------
 *
 * undo.c
 *	  Undos: which entries they take out, and which come back.
 *
 *	  An undo names the message id of any entry of its source.  It is active
 *	  unless an active undo that is later names it, so activity is judged from
 *	  the latest undo to the earliest; an entry that an active later undo names
 *	  is undone and counts for nothing.  Which copy of a message counts is
 *	  decided before: the undo is about the message, whichever copy that is.
 *
 *	  So that the order of arrival does not matter, both directions are looked
 *	  up: an entry of the batch may have been undone before it came, and an undo
 *	  of the batch, or one that is undone itself, changes what was applied
 *	  earlier.  What is undone is withdrawn (withdraw.c); what counts again
 *	  joins the batch as if it had been read from the log just now.
 *
 *	  All undos are rows of cdp.decisions.  Few are expected, so they are all
 *	  loaded when they are at most UNDOS_ALL_MAX; beyond that, those that bear on
 *	  the batch are looked up.
 *
 * IDENTIFICATION
 *	  src/apply/undo.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "apply/batch.h"
#include "cdp.h"
#include "statement.h"

#define UNDOS_ALL_MAX	1000

/* What undos name: a message of a source. */
typedef struct Target
{
	text	   *tie;			/* hash key: source, \001, message id, … */
	Size		source_len;		/* … told apart by how long the source is */
	text	   *source;
	text	   *message_id;
	List	   *undos;			/* Undo * that name it */
	bool		changed;		/* an undo of it has become active, or is not any more */
} Target;

typedef struct Undo
{
	int64		entry;			/* hash key */
	text	   *source;
	text	   *message_id;
	text	   *target;
	TimestampTz at;
	text	   *tie;
	int64		xid;
	bool		on_disk;
	bool		was_active;
	bool		gone;			/* its copy of the message does not count any more */
	bool		active;
	bool		expanded;		/* what it relates to has been loaded */
} Undo;

typedef struct CdpUndoSet
{
	HTAB	   *undos;
	HTAB	   *targets;
} Undos;

#define UNDO_COLUMNS \
	"d.entry, d.source, d.message_id, d.target, d.at, d.tie, d.xid, d.effective"

static CdpStatement load_all = {
	"SELECT " UNDO_COLUMNS " FROM cdp.decisions d WHERE d.type = 'undo' LIMIT $1",
	{"int8"}, "decisions"
};

static CdpStatement load_undos_of = {
	"SELECT " UNDO_COLUMNS
	" FROM (SELECT unnest($1) AS source, unnest($2) AS message_id) AS u"
	" CROSS JOIN LATERAL (SELECT * FROM cdp.decisions d WHERE d.source = u.source"
	" AND d.target = u.message_id AND d.type = 'undo' OFFSET 0) AS d",
	{"text[]", "text[]"}
};

/* type is written so that decisions_undos, which lacks the message, is no match */
static CdpStatement load_named = {
	"SELECT " UNDO_COLUMNS
	" FROM (SELECT unnest($1) AS source, unnest($2) AS message_id) AS u"
	" CROSS JOIN LATERAL (SELECT * FROM cdp.decisions d WHERE d.source = u.source"
	" AND d.message_id = u.message_id AND d.type || '' = 'undo' OFFSET 0) AS d",
	{"text[]", "text[]"}
};

static CdpStatement upsert_undos = {
	"INSERT INTO cdp.decisions AS d"
	" (entry, source, message_id, type, target, at, tie, effective, xid)"
	" SELECT unnest($1), unnest($2), unnest($3), 'undo', unnest($4), unnest($5),"
	" unnest($6), unnest($7), unnest($8)"
	" ON CONFLICT (entry) DO UPDATE SET effective = excluded.effective",
	{"int8[]", "text[]", "text[]", "text[]", "timestamptz[]", "text[]",
	"bool[]", "int8[]"}
};

/* entries without message id, by number: decisions first, they are at hand */
static CdpStatement numbered_decisions = {
	"SELECT " CDP_EVENTS_COLUMNS " FROM (SELECT unnest($1) AS entry) AS u"
	" CROSS JOIN LATERAL (SELECT * FROM cdp.decisions d WHERE d.entry = u.entry OFFSET 0) AS d"
	" JOIN cdp.events e ON e.xid = d.xid AND e.id = d.entry AND e.message_id IS NULL",
	{"int8[]"}
};

static CdpStatement numbered_entries = {
	"SELECT " CDP_EVENTS_COLUMNS " FROM cdp.events e"
	" WHERE e.id = ANY ($1) AND e.message_id IS NULL",
	{"int8[]"}
};

static uint32
target_hash(const void *key, Size keysize)
{
	text	   *tie = ((const Target *) key)->tie;

	return hash_bytes((const unsigned char *) VARDATA_ANY(tie),
					  VARSIZE_ANY_EXHDR(tie));
}

static int
target_match(const void *key1, const void *key2, Size keysize)
{
	const Target *a = key1;
	const Target *b = key2;

	return a->source_len != b->source_len ||
		CdpOrderCompare(0, a->tie, 0, b->tie) != 0;
}

static Target *
find_target(Undos *undos, text *source, text *message_id, HASHACTION action)
{
	Target		key = {.tie = CdpMakeTie(source, message_id),
	.source_len = VARSIZE_ANY_EXHDR(source)};
	bool		found;
	Target	   *target = hash_search(undos->targets, &key, action, &found);

	if (target != NULL && !found)
	{
		target->source = source;
		target->message_id = message_id;
		target->undos = NIL;
		target->changed = false;
	}
	return target;
}

static Undo *
find_undo(Undos *undos, int64 entry, bool *found)
{
	Undo	   *undo = hash_search(undos->undos, &entry, HASH_ENTER, found);

	if (!*found)
		memset((char *) undo + sizeof(int64), 0, sizeof(Undo) - sizeof(int64));
	return undo;
}

/*
 * Hash entries of dynahash stay where they are.
 */
static void
name_target(Undos *undos, Undo *undo)
{
	Target	   *target = find_target(undos, undo->source, undo->target, HASH_ENTER);

	target->undos = lappend(target->undos, undo);
}

/*
 * Take rows of UNDO_COLUMNS in.
 */
static void
load_rows(Undos *undos)
{
	uint64		i;

	for (i = 0; i < SPI_processed; i++)
	{
		bool		found;
		bool		isnull;
		Undo	   *undo = find_undo(undos, CdpCellInt8(i, 1), &found);

		if (!found)
		{
			undo->source = CdpCellVarlena(i, 2, CurrentMemoryContext);
			undo->message_id = CdpCellVarlena(i, 3, CurrentMemoryContext);
			undo->target = CdpCellVarlena(i, 4, CurrentMemoryContext);
			undo->at = CdpCellInt8(i, 5);
			undo->tie = CdpCellVarlena(i, 6, CurrentMemoryContext);
			undo->xid = CdpCellInt8(i, 7);
			name_target(undos, undo);
		}
		undo->on_disk = true;
		undo->was_active = DatumGetBool(CdpCell(i, 8, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
}

/*
 * The message id that an undo names.
 */
static text *
undo_target(CdpEntry *entry)
{
	JsonbValue	value;

	if (getKeyJsonValueFromContainer(&entry->properties->root, "entry", 5,
									 &value) == NULL)
		elog(ERROR, "entry %lld is not an undo", (long long) entry->id);
	return cstring_to_text_with_len(value.val.string.val, value.val.string.len);
}

static void
add_entry(Undos *undos, CdpEntry *entry)
{
	bool		found;
	Undo	   *undo = find_undo(undos, entry->id, &found);

	if (found)
		return;
	undo->source = entry->source;
	undo->message_id = CdpEntryMessageId(entry);
	undo->target = undo_target(entry);
	undo->at = entry->at;
	undo->tie = entry->tie;
	undo->xid = entry->xid;
	name_target(undos, undo);
}

static void
load_by_message(Undos *undos, CdpStatement *statement, Datum *sources,
				Datum *ids, int n)
{
	Datum		args[2];

	if (n == 0)
		return;
	args[0] = CdpVarlenaArray(sources, NULL, n, TEXTOID);
	args[1] = CdpVarlenaArray(ids, NULL, n, TEXTOID);
	CdpRun(statement, args, NULL);
	load_rows(undos);
}

/*
 * There are too many undos to load them all: load those that name these
 * messages, and then whatever the undos at hand name, and are named by.
 */
static void
load_related(Undos *undos, Datum *sources, Datum *ids, int n)
{
	load_by_message(undos, &load_undos_of, sources, ids, n);
	for (;;)
	{
		HASH_SEQ_STATUS seq;
		Undo	   *undo;
		long		max = Max(hash_get_num_entries(undos->undos), 1);
		Datum	   *targets = palloc(sizeof(Datum) * max);

		sources = palloc(sizeof(Datum) * max);
		ids = palloc(sizeof(Datum) * max);
		n = 0;
		CHECK_FOR_INTERRUPTS();
		hash_seq_init(&seq, undos->undos);
		while ((undo = hash_seq_search(&seq)) != NULL)
		{
			if (undo->expanded)
				continue;
			undo->expanded = true;
			sources[n] = PointerGetDatum(undo->source);
			targets[n] = PointerGetDatum(undo->target);
			ids[n++] = PointerGetDatum(undo->message_id);
		}
		if (n == 0)
			return;
		load_by_message(undos, &load_undos_of, sources, ids, n);
		load_by_message(undos, &load_undos_of, sources, targets, n);
		load_by_message(undos, &load_named, sources, targets, n);
	}
}

static bool
undone_by(List *list, TimestampTz at, const text *tie, bool before)
{
	ListCell   *lc;

	foreach(lc, list)
	{
		Undo	   *undo = lfirst(lc);

		if ((before ? undo->was_active : undo->active) &&
			CdpOrderCompare(undo->at, undo->tie, at, tie) > 0)
			return true;
	}
	return false;
}

/*
 * Is an entry undone, as the tables have it (before), or now?
 */
static bool
is_undone(Undos *undos, CdpEntry *entry, bool before)
{
	Target	   *target = find_target(undos, entry->source,
									 CdpEntryMessageId(entry), HASH_FIND);

	return target != NULL && undone_by(target->undos, entry->at, entry->tie, before);
}

static int
latest_first(const void *x, const void *y)
{
	const Undo *a = *(Undo *const *) x;
	const Undo *b = *(Undo *const *) y;

	return CdpOrderCompare(b->at, b->tie, a->at, a->tie);
}

/*
 * Judge which undos are active, write what has changed, and tell which targets
 * are concerned.
 */
static void
judge(Undos *undos)
{
	long		max = Max(hash_get_num_entries(undos->undos), 1);
	Undo	  **all = palloc(sizeof(Undo *) * max);
	int64	   *entries = palloc(sizeof(int64) * max);
	int64	   *xids = palloc(sizeof(int64) * max);
	TimestampTz *ats = palloc(sizeof(TimestampTz) * max);
	Datum	   *sources = palloc(sizeof(Datum) * max);
	Datum	   *ids = palloc(sizeof(Datum) * max);
	Datum	   *targets = palloc(sizeof(Datum) * max);
	Datum	   *ties = palloc(sizeof(Datum) * max);
	Datum	   *active = palloc(sizeof(Datum) * max);
	HASH_SEQ_STATUS seq;
	Undo	   *undo;
	Datum		args[8];
	int			n = 0;
	int			k = 0;
	int			i;

	hash_seq_init(&seq, undos->undos);
	while ((undo = hash_seq_search(&seq)) != NULL)
		all[n++] = undo;
	qsort(all, n, sizeof(Undo *), latest_first);
	for (i = 0; i < n; i++)
	{
		Target	   *named = find_target(undos, all[i]->source,
										all[i]->message_id, HASH_FIND);

		CHECK_FOR_INTERRUPTS();
		undo = all[i];
		undo->active = !undo->gone &&
			(named == NULL || !undone_by(named->undos, undo->at, undo->tie, false));
		if (undo->active != undo->was_active)
			find_target(undos, undo->source, undo->target, HASH_FIND)->changed = true;
		if (undo->gone || (undo->on_disk && undo->active == undo->was_active))
			continue;
		entries[k] = undo->entry;
		sources[k] = PointerGetDatum(undo->source);
		ids[k] = PointerGetDatum(undo->message_id);
		targets[k] = PointerGetDatum(undo->target);
		ats[k] = undo->at;
		ties[k] = PointerGetDatum(undo->tie);
		active[k] = BoolGetDatum(undo->active);
		xids[k++] = undo->xid;
	}
	if (k == 0)
		return;
	args[0] = CdpInt8Array(entries, k);
	args[1] = CdpVarlenaArray(sources, NULL, k, TEXTOID);
	args[2] = CdpVarlenaArray(ids, NULL, k, TEXTOID);
	args[3] = CdpVarlenaArray(targets, NULL, k, TEXTOID);
	args[4] = CdpTimestampArray(ats, k);
	args[5] = CdpVarlenaArray(ties, NULL, k, TEXTOID);
	args[6] = CdpVarlenaArray(active, NULL, k, BOOLOID);
	args[7] = CdpInt8Array(xids, k);
	CdpRun(&upsert_undos, args, NULL);
}

/*
 * The number of an entry that has no message id, 0 when this is none.
 */
static int64
entry_number(const text *message_id)
{
	const char *s = VARDATA_ANY(message_id);
	int			len = VARSIZE_ANY_EXHDR(message_id);
	int64		number = 0;
	int			i;

	if (len < 2 || len > 19 || s[0] != '#' || s[1] == '0')
		return 0;
	for (i = 1; i < len; i++)
	{
		if (s[i] < '0' || s[i] > '9')
			return 0;
		number = number * 10 + (s[i] - '0');
	}
	return number;
}

static void
read_payloads(List *entries)
{
	CdpEntry  **array = palloc(sizeof(CdpEntry *) * Max(list_length(entries), 1));
	ListCell   *lc;

	foreach(lc, entries)
		array[foreach_current_index(lc)] = lfirst(lc);
	CdpEntriesRead(array, list_length(entries));
	pfree(array);
}

/*
 * Take those rows of SPI_tuptable that earlier batches have applied and that a
 * target names; sets found where the number, which are in order, has one.
 */
static List *
take_numbered(CdpBatch *batch, CdpCursorSet *before, Undos *undos,
			  int64 *numbers, bool *found, int n, List *entries)
{
	uint64		r;

	for (r = 0; r < SPI_processed; r++)
	{
		Datum		values[CDP_EVENTS_NATTS];
		bool		isnull[CDP_EVENTS_NATTS];
		CdpEntry   *entry = palloc(sizeof(CdpEntry));
		Target	   *target;
		int64	   *number;

		heap_deform_tuple(SPI_tuptable->vals[r], SPI_tuptable->tupdesc,
						  values, isnull);
		CdpEntryFromRow(entry, values, isnull);
		target = find_target(undos, entry->source, CdpEntryMessageId(entry),
							 HASH_FIND);
		if (target == NULL || !target->changed)
			continue;
		number = bsearch(&entry->id, numbers, n, sizeof(int64), CdpCompareInt8);
		if (number != NULL)
			found[number - numbers] = true;
		if (!CdpCursorsApplied(before, entry->incarnation, entry->xid, entry->id))
			continue;
		(void) CdpEntryJudge(entry);
		CdpGraphCheck(batch->graph, entry, 1);
		if (entry->reject_reason == NULL)
			entries = lappend(entries, entry);
	}
	SPI_freetuptable(SPI_tuptable);
	read_payloads(entries);
	return entries;
}

/*
 * The entries that earlier batches have applied, of the messages that have
 * another undo now.
 */
static List *
changed_entries(CdpBatch *batch, CdpCursorSet *before, Undos *undos)
{
	long		max = Max(hash_get_num_entries(undos->targets), 1);
	text	  **sources = palloc(sizeof(text *) * max);
	text	  **ids = palloc(sizeof(text *) * max);
	int64	   *numbers = palloc(sizeof(int64) * max);
	HASH_SEQ_STATUS seq;
	Target	   *target;
	List	   *entries;
	Datum		arg;
	int			n = 0;
	int			nnumbers = 0;
	int			left = 0;
	int			i;

	hash_seq_init(&seq, undos->targets);
	while ((target = hash_seq_search(&seq)) != NULL)
	{
		if (!target->changed)
			continue;
		sources[n] = target->source;
		ids[n++] = target->message_id;
		numbers[nnumbers] = entry_number(target->message_id);
		if (numbers[nnumbers] != 0)
			nnumbers++;
	}
	if (n == 0)
		return NIL;
	entries = CdpAppliedMessages(batch, before, sources, ids, n);
	if (nnumbers > 0)
	{
		bool	   *found = palloc0(sizeof(bool) * nnumbers);
		int			kept = 0;

		/* sources may use the same numbers */
		qsort(numbers, nnumbers, sizeof(int64), CdpCompareInt8);
		for (i = 0; i < nnumbers; i++)
			if (kept == 0 || numbers[kept - 1] != numbers[i])
				numbers[kept++] = numbers[i];
		nnumbers = kept;
		arg = CdpInt8Array(numbers, nnumbers);
		CdpRun(&numbered_decisions, &arg, NULL);
		entries = take_numbered(batch, before, undos, numbers, found, nnumbers, entries);
		for (i = 0; i < nnumbers; i++)
			if (!found[i])
				numbers[left++] = numbers[i];
	}
	if (left > 0)
	{
		/* the log has no index by number alone */
		arg = CdpInt8Array(numbers, left);
		CdpRun(&numbered_entries, &arg, NULL);
		entries = take_numbered(batch, before, undos, numbers,
								palloc0(sizeof(bool) * left), left, entries);
	}
	return entries;
}

/*
 * The numbers of these entries, in order.
 */
static int64 *
numbers_of(List *entries)
{
	int64	   *ids = palloc(sizeof(int64) * Max(list_length(entries), 1));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, entries)
		ids[n++] = ((CdpEntry *) lfirst(lc))->id;
	qsort(ids, n, sizeof(int64), CdpCompareInt8);
	return ids;
}

/*
 * Entries count again: they join the batch.
 */
static void
join_batch(CdpBatch *batch, List *again)
{
	int			n = batch->nentries + list_length(again);
	CdpEntry   *entries;
	bool	   *counts;
	ListCell   *lc;

	if (again == NIL)
		return;
	entries = MemoryContextAllocHuge(CurrentMemoryContext,
									 sizeof(CdpEntry) * (Size) n);
	counts = palloc(sizeof(bool) * n);
	memcpy(entries, batch->entries, sizeof(CdpEntry) * (Size) batch->nentries);
	memcpy(counts, batch->counts, sizeof(bool) * batch->nentries);
	foreach(lc, again)
	{
		entries[batch->nentries] = *(CdpEntry *) lfirst(lc);
		counts[batch->nentries++] = true;
	}
	batch->entries = entries;
	batch->counts = counts;
}

static void
make_tables(Undos *undos)
{
	HASHCTL		ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(Undo);
	ctl.hcxt = CurrentMemoryContext;
	undos->undos = hash_create("cdp undos", 64, &ctl,
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = offsetof(Target, source);
	ctl.entrysize = sizeof(Target);
	ctl.hash = target_hash;
	ctl.match = target_match;
	ctl.hcxt = CurrentMemoryContext;
	undos->targets = hash_create("cdp undo targets", 64, &ctl,
								 HASH_ELEM | HASH_FUNCTION | HASH_COMPARE |
								 HASH_CONTEXT);
}

/*
 * Load the undos that bear on the batch; false when there are none.
 */
static bool
load_undos(Undos *undos, CdpBatch *batch, List *replaced)
{
	Datum		arg = Int64GetDatum(UNDOS_ALL_MAX + 1);
	bool		some = false;
	bool		any;
	int			i;

	for (i = 0; i < batch->nentries && !some; i++)
		some = batch->counts[i] && batch->entries[i].type == CDP_ENTRY_UNDO;
	any = CdpRun(&load_all, &arg, NULL) > 0;
	if (!any && !some)
		return false;

	make_tables(undos);
	if (SPI_processed <= UNDOS_ALL_MAX)
	{
		load_rows(undos);
		any = false;			/* no more to load */
	}
	else
		SPI_freetuptable(SPI_tuptable);
	for (i = 0; i < batch->nentries; i++)
		if (batch->counts[i] && batch->entries[i].type == CDP_ENTRY_UNDO)
			add_entry(undos, &batch->entries[i]);
	if (any)
	{
		int			max = batch->nentries + list_length(replaced);
		Datum	   *sources = palloc(sizeof(Datum) * max);
		Datum	   *ids = palloc(sizeof(Datum) * max);
		ListCell   *lc;
		int			n = 0;

		foreach(lc, replaced)
		{
			CdpEntry   *entry = lfirst(lc);

			if (entry->type != CDP_ENTRY_UNDO)
				continue;
			sources[n] = PointerGetDatum(entry->source);
			ids[n++] = PointerGetDatum(entry->message_id);
		}
		load_by_message(undos, &load_named, sources, ids, n);

		/* of those that are replaced, the message is that of what replaces it */
		for (n = 0, i = 0; i < batch->nentries; i++)
		{
			if (!batch->counts[i])
				continue;
			sources[n] = PointerGetDatum(batch->entries[i].source);
			ids[n++] = PointerGetDatum(CdpEntryMessageId(&batch->entries[i]));
		}
		load_related(undos, sources, ids, n);
	}
	return true;
}

/*
 * Clear counts[] of the batch's entries that are undone, and let those of
 * earlier batches join it that count again.  replaced: applied entries that a
 * copy in the batch outdoes (list of CdpEntry *); returns what is to be
 * withdrawn, undone ones included.
 */
List *
CdpUndo(CdpBatch *batch, CdpCursorSet *before, List *replaced)
{
	Undos		undos;
	List	   *withdrawn = NIL;
	List	   *again = NIL;
	int64	   *listed;
	ListCell   *lc;
	int			i;

	if (!load_undos(&undos, batch, replaced))
		return replaced;

	foreach(lc, replaced)
	{
		CdpEntry   *entry = lfirst(lc);
		bool		found;

		if (entry->type == CDP_ENTRY_UNDO)
		{
			Undo	   *undo = hash_search(undos.undos, &entry->id, HASH_FIND, &found);

			if (undo != NULL)
				undo->gone = true;
		}
		if (!is_undone(&undos, entry, true))
			withdrawn = lappend(withdrawn, entry);
		else
		{
			/* it has done nothing that could be taken back, but may have a row */
			int64	   *id = palloc(sizeof(int64));

			*id = entry->id;
			batch->graph->withdrawn = lappend(batch->graph->withdrawn, id);
		}
	}
	judge(&undos);

	for (i = 0; i < batch->nentries; i++)
	{
		CdpEntry   *entry = &batch->entries[i];

		if (batch->counts[i] && entry->type != CDP_ENTRY_UNDO &&
			is_undone(&undos, entry, false))
		{
			batch->counts[i] = false;
			entry->undone = true;
		}
	}

	listed = numbers_of(replaced);
	foreach(lc, changed_entries(batch, before, &undos))
	{
		CdpEntry   *entry = lfirst(lc);
		bool		was = is_undone(&undos, entry, true);
		bool		is = is_undone(&undos, entry, false);

		if (entry->type == CDP_ENTRY_UNDO || was == is ||
			bsearch(&entry->id, listed, list_length(replaced), sizeof(int64),
					CdpCompareInt8) != NULL)
			continue;
		if (is)
		{
			entry->undone = true;
			withdrawn = lappend(withdrawn, entry);
		}
		else
			again = lappend(again, entry);
	}
	join_batch(batch, again);
	return withdrawn;
}

/*
 * All undos there are, as the tables have them.
 */
CdpUndoSet *
CdpUndoSetLoad(void)
{
	Undos	   *undos = palloc(sizeof(Undos));
	Datum		arg = Int64GetDatum(PG_INT64_MAX);

	make_tables(undos);
	CdpRun(&load_all, &arg, NULL);
	load_rows(undos);
	return undos;
}

bool
CdpUndoSetNames(CdpUndoSet *undos, CdpEntry *entry)
{
	return is_undone(undos, entry, true);
}
