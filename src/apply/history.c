/*-------------------------------------------------------------------------
 *
 * history.c
 *	  What the present state does not lead to any more.
 *
 *	  cdp.entries and cdp.links lead from an identifier to the entries that
 *	  name it and count.  To know who was who at an earlier time takes some
 *	  more: copies of messages that count if the better copy is not there yet,
 *	  entries that were undone since, and the undos themselves.
 *	  cdp.history_entries leads to those by a hash of the identifier, or of the
 *	  message that is undone.  They are few: ordinary entries leave nothing
 *	  here.
 *
 *	  A copy of a message that loses against one that was received before it
 *	  is not kept.  Whenever the loser is there, the other is there too.
 *
 * IDENTIFICATION
 *	  src/apply/history.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "apply/batch.h"
#include "cdp.h"
#include "statement.h"

static CdpStatement insert_history = {
	"INSERT INTO cdp.history_entries (hash, entry, xid, received_at, until)"
	" SELECT unnest($1), unnest($2), unnest($3), unnest($4), unnest($5)",
	{"int8[]", "int8[]", "int8[]", "timestamptz[]", "timestamptz[]"}
};

/* from the hashes $1 of the entries $2 to the hashes $3 of the entries $4 */
static CdpStatement renew_history = {
	"WITH gone AS (DELETE FROM cdp.history_entries h"
	" USING (SELECT DISTINCT unnest($1) AS hash, unnest($2) AS entry) AS u"
	" WHERE h.hash = u.hash AND h.entry = u.entry"
	" RETURNING h.entry, h.xid, h.received_at, h.until)"
	" INSERT INTO cdp.history_entries (hash, entry, xid, received_at, until)"
	" SELECT n.hash, g.entry, g.xid, g.received_at, max(g.until)"
	" FROM gone g JOIN (SELECT unnest($3) AS hash, unnest($4) AS entry) AS n"
	" ON n.entry = g.entry GROUP BY n.hash, g.entry, g.xid, g.received_at",
	{"int8[]", "int8[]", "int8[]", "int8[]"}
};

static CdpStatement prune_history = {
	"SELECT cdp.prune_history()",
	{NULL}
};

/*
 * The message id that an undo names; NULL when it names none.
 */
text *
CdpUndoTarget(const CdpEntry *entry)
{
	JsonbValue	value;
	JsonbValue *found;

	if (entry->properties == NULL || !JB_ROOT_IS_OBJECT(entry->properties))
		return NULL;
	found = getKeyJsonValueFromContainer(&entry->properties->root,
										 "entry", 5, &value);
	if (found == NULL || found->type != jbvString)
		return NULL;
	return cstring_to_text_with_len(found->val.string.val,
									found->val.string.len);
}

int64
CdpIdentifierHash(const CdpIdentifier *canonical)
{
	return (int64) hash_bytes_extended((const unsigned char *) VARDATA_ANY(canonical),
									   VARSIZE_ANY_EXHDR(canonical), 0);
}

/*
 * The entry does not count, or is an undo: keep the way to it.
 */
void
CdpHistoryKeep(CdpBatch *batch, CdpEntry *entry)
{
	batch->history = lappend(batch->history, entry);
}

/*
 * Of two copies of a message this one counts, that one does not.
 */
void
CdpHistoryOutdone(CdpBatch *batch, CdpEntry *loser, CdpEntry *winner)
{
	if (loser->received_at < winner->received_at)
		CdpHistoryKeep(batch, loser);
}

/*
 * Hashes of the identifiers that the entry names, as far as they are usable.
 */
int
CdpHistoryHashes(CdpKindSet *kinds, CdpEntry *entry, int64 *hashes)
{
	Datum	   *elems;
	bool	   *nulls;
	int			nelems = 0;
	int			n = 0;
	int			i;

	if (entry->identifiers != NULL)
		deconstruct_array(entry->identifiers, ARR_ELEMTYPE(entry->identifiers),
						  -1, false, TYPALIGN_INT, &elems, &nulls, &nelems);
	for (i = 0; i < nelems; i++)
	{
		CdpIdentifier *canonical;
		CdpKind    *kind;

		if (nulls[i])
			continue;
		(void) CdpCanonicalise(kinds,
							   (CdpIdentifier *) DatumGetPointer(elems[i]),
							   &canonical, &kind);
		if (canonical != NULL)
			hashes[n++] = CdpIdentifierHash(canonical);
	}
	return n;
}

/*
 * Write what was kept.
 */
void
CdpHistoryWrite(CdpBatch *batch)
{
	TimestampTz until = batch->applier.clock;
	int			max = 0;
	int			n = 0;
	int64	   *hashes;
	int64	   *entries;
	int64	   *xids;
	TimestampTz *received;
	TimestampTz *untils;
	Datum		args[5];
	ListCell   *lc;
	int			i;

	for (i = 0; i < batch->nentries; i++)
	{
		CdpEntry   *entry = &batch->entries[i];

		if (entry->type == CDP_ENTRY_UNDO && batch->counts[i])
			CdpHistoryKeep(batch, entry);
	}
	if (batch->history == NIL)
		return;

	/* what put them aside is in this batch */
	for (i = 0; i < batch->nentries; i++)
	{
		if (!TIMESTAMP_NOT_FINITE(batch->entries[i].at))
			until = Max(until, batch->entries[i].at);
		until = Max(until, batch->entries[i].received_at);
	}

	foreach(lc, batch->history)
	{
		CdpEntry   *entry = lfirst(lc);

		max += 1 + (entry->identifiers == NULL ? 0 :
					ArrayGetNItems(ARR_NDIM(entry->identifiers),
								   ARR_DIMS(entry->identifiers)));
	}
	hashes = palloc(sizeof(int64) * max);
	entries = palloc(sizeof(int64) * max);
	xids = palloc(sizeof(int64) * max);
	received = palloc(sizeof(TimestampTz) * max);
	untils = palloc(sizeof(TimestampTz) * max);
	foreach(lc, batch->history)
	{
		CdpEntry   *entry = lfirst(lc);
		int			count;

		CHECK_FOR_INTERRUPTS();
		if (entry->type == CDP_ENTRY_UNDO)
		{
			hashes[n] = CdpMessageHash(entry->source, CdpUndoTarget(entry));
			count = 1;
		}
		else
			count = CdpHistoryHashes(batch->kinds, entry, hashes + n);
		while (count-- > 0)
		{
			entries[n] = entry->id;
			xids[n] = entry->xid;
			received[n] = entry->received_at;
			untils[n++] = entry->type == CDP_ENTRY_UNDO ? DT_NOEND : until;
		}
	}
	batch->history = NIL;
	args[0] = CdpInt8Array(hashes, n);
	args[1] = CdpInt8Array(entries, n);
	args[2] = CdpInt8Array(xids, n);
	args[3] = CdpTimestampArray(received, n);
	args[4] = CdpTimestampArray(untils, n);
	CdpRun(&insert_history, args, NULL);
	if (cdp_history_retention > 0)
	{
		CdpRun(&prune_history, NULL, NULL);
		SPI_freetuptable(SPI_tuptable);
	}
}

/*
 * Entries are read otherwise than before (as the kinds of the same place took
 * them): what leads to them goes by their identifiers as they are now.
 */
void
CdpHistoryRenew(CdpBatch *batch, CdpEntry **entries, CdpKindSet **before, int n)
{
	int			max = 0;
	int			nold = 0;
	int			nnew = 0;
	int64	   *old[2];
	int64	   *new[2];
	Datum		args[4];
	int			i;

	for (i = 0; i < n; i++)
		if (entries[i]->identifiers != NULL)
			max += ArrayGetNItems(ARR_NDIM(entries[i]->identifiers),
								  ARR_DIMS(entries[i]->identifiers));
	for (i = 0; i < 2; i++)
	{
		old[i] = palloc(sizeof(int64) * Max(2 * max, 1));
		new[i] = palloc(sizeof(int64) * Max(max, 1));
	}
	for (i = 0; i < n; i++)
	{
		int			count = CdpHistoryHashes(batch->kinds, entries[i], new[0] + nnew);

		CHECK_FOR_INTERRUPTS();
		for (; count > 0; count--, nnew++)
		{
			new[1][nnew] = entries[i]->id;

			/* it may have been kept in between */
			old[0][nold] = new[0][nnew];
			old[1][nold++] = entries[i]->id;
		}
		count = CdpHistoryHashes(before[i], entries[i], old[0] + nold);
		while (count-- > 0)
			old[1][nold++] = entries[i]->id;
	}
	args[0] = CdpInt8Array(old[0], nold);
	args[1] = CdpInt8Array(old[1], nold);
	args[2] = CdpInt8Array(new[0], nnew);
	args[3] = CdpInt8Array(new[1], nnew);
	CdpRun(&renew_history, args, NULL);
}
