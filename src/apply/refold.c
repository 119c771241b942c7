/*-------------------------------------------------------------------------
 *
 * refold.c
 *	  States of owners with many entries, computed anew at the end.
 *
 *	  States can hardly be subtracted from, so whoever takes entries away folds the
 *	  owner's others anew (withdraw.c).  A step of retention or of an erasure that
 *	  takes a few of an owner's million entries would read all of them, and so
 *	  would the next one.  Such owners are put down in cdp.refolds instead.  Their
 *	  states stay as they were, with what went still in them, and are computed
 *	  once, when the pages of the log have been gone through: some entries at a
 *	  time, in bounded memory, in a transaction of its own.  An erasure is done
 *	  only after that.
 *
 *	  Entries that come meanwhile are folded in as ever.  Entries that the step
 *	  itself brings back, changed, are not: they are in the states already, as
 *	  they were.
 *
 * IDENTIFICATION
 *	  src/apply/refold.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "apply/accounts.h"
#include "apply/erase.h"
#include "cdp.h"
#include "statement.h"

/* An owner has many entries from so many rows of cdp.entry_pieces on, of up to 128 each. */
#define MANY_PIECES 40

/* Entries that are folded at a time. */
#define CHUNK 10000

static CdpStatement owners_of_many = {
	"SELECT u.owner FROM (SELECT unnest($1) AS owner) AS u WHERE (SELECT count(*)"
	" FROM (SELECT FROM cdp.entry_pieces p WHERE p.owner = u.owner LIMIT $2) AS p) = $2",
	{ "int8[]", "int8" }
};

static CdpStatement add_refolds = {
	"INSERT INTO cdp.refolds (owner) SELECT unnest($1) ON CONFLICT DO NOTHING",
	{ "int8[]" }
};

static CdpStatement next_refold = {
	"SELECT r.owner FROM cdp.refolds r ORDER BY r.owner LIMIT 1",
	{ NULL },
	"refolds"
};

static CdpStatement delete_refold = {
	"DELETE FROM cdp.refolds r WHERE r.owner = $1",
	{ "int8" }
};

/*
 * Of these owners, in order, who are to be folded anew: leave those with many
 * entries for later.  Returns how many are left.
 */
int
CdpRefoldsDefer(CdpBatch *batch, int64 *owners, int n)
{
	Datum args[2];
	uint64 found;
	int kept = 0;

	if (!batch->erasing || n == 0)
		return n;
	args[0] = CdpInt8Array(owners, n);
	args[1] = Int64GetDatum(MANY_PIECES);
	found = CdpRunHere(&owners_of_many, args, NULL);
	if (found > 0)
	{
		int64 *many = palloc_array(int64, batch->ndeferred + found);

		if (batch->ndeferred > 0)
			memcpy(many, batch->deferred, sizeof(int64) * batch->ndeferred);
		for (uint64 r = 0; r < found; r++)
			many[batch->ndeferred++] = CdpCellInt8(r, 1);
		qsort(many, batch->ndeferred, sizeof(int64), CdpCompareInt8);
		batch->deferred = many;
	}
	SPI_freetuptable(SPI_tuptable);
	if (found == 0)
		return n;
	args[0] = CdpInt8Array(batch->deferred, batch->ndeferred);
	CdpRunHere(&add_refolds, args, NULL);
	for (int i = 0; i < n; i++)
		if (!CdpRefoldIsDeferred(batch, owners[i]))
			owners[kept++] = owners[i];
	return kept;
}

bool
CdpRefoldIsDeferred(const CdpBatch *batch, int64 owner)
{
	return batch->ndeferred > 0 &&
		bsearch(&owner, batch->deferred, batch->ndeferred, sizeof(int64), CdpCompareInt8) != NULL;
}

/*
 * Add these entries to a state; the new one is in the context given.
 */
static struct varlena *
fold(CdpBatch *batch, CdpNode *node, struct varlena *state, bool reset, CdpEntry *entries, int n,
	 MemoryContext context)
{
	CdpNodeAcc *acc = CdpNodeOpen(batch->traits, state);
	CdpContributions *contributions = palloc0(sizeof(CdpContributions) * Max(n, 1));

	if (reset)
		CdpNodeReset(acc, NULL);
	CdpTraitsEvaluate(batch->traits, NULL, entries, n, contributions);
	for (int i = 0; i < n; i++)
		CdpNodeFold(acc, &entries[i], &contributions[i], true);
	return CdpNodeStore(acc, node->id, batch->applier.clock, context);
}

/*
 * The node's states, from the entries that it owns and that count.
 */
static void
refold(CdpBatch *batch, CdpNode *node)
{
	MemoryContext old = CurrentMemoryContext;
	MemoryContext chunk = AllocSetContextCreate(old, "cdp refold", ALLOCSET_DEFAULT_SIZES);
	Datum arg = CdpInt8Array(&node->id, 1);
	struct varlena *state = node->state;
	bool reset = true;
	Portal portal;
	int n;

	CdpPrepare(&CdpOwnedEntries);
	portal = SPI_cursor_open(NULL, CdpOwnedEntries.plan, &arg, NULL, false);
	do
	{
		struct varlena *before = state;
		CdpEntry *entries;

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(chunk);
		n = CdpFetchHere(portal, CHUNK);
		entries = palloc(sizeof(CdpEntry) * Max(n, 1));
		for (int i = 0; i < n; i++)
		{
			Datum values[CDP_EVENTS_NATTS + 1];
			bool isnull[CDP_EVENTS_NATTS + 1];

			heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, values, isnull);
			CdpEntryFromRow(&entries[i], values + 1, isnull + 1);
			entries[i].owner = node->id;
		}
		SPI_freetuptable(SPI_tuptable);
		if (n > 0 || reset)
		{
			CdpEntriesReadAll(entries, n);
			CdpGraphReadProperties(batch->graph->reading, batch->graph->reading_arg, entries, n);
			state = fold(batch, node, state, reset, entries, n, old);
			if (!reset && before != NULL)
				pfree(before);
			reset = false;
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(chunk);
	} while (n > 0);
	MemoryContextDelete(chunk);
	SPI_cursor_close(portal);
	CdpGraphNewState(batch->graph, node, state);
	CdpGraphUncombine(CdpNodeRoot(node));
	node->row_changed = true;
	batch->refolded = lappend(batch->refolded, &node->id);
}

bool
CdpRefoldsPending(void)
{
	bool pending = CdpRunHere(&next_refold, NULL, NULL) > 0;

	if (SPI_tuptable != NULL)
		SPI_freetuptable(SPI_tuptable);
	return pending;
}

/*
 * One of those who were left for later; false: there is none.
 */
bool
CdpRefoldsStep(CdpBatch *batch, CdpCursorSet *applied)
{
	bool found = CdpRunHere(&next_refold, NULL, NULL) > 0;
	int64 owner = found ? CdpCellInt8(0, 1) : 0;
	CdpNode *node;
	Datum arg = Int64GetDatum(owner);

	if (SPI_tuptable != NULL)
		SPI_freetuptable(SPI_tuptable);
	if (!found)
		return false;
	batch->erasing = true;
	batch->rereading = true;
	batch->nentries = 0;
	CdpGraphAddNodes(batch->graph, &owner, 1);
	CdpBatchFold(batch, applied);
	/* whoever has lost all entries is gone */
	node = CdpGraphNode(batch->graph, owner);
	if (node != NULL && !node->is_gone)
		refold(batch, node);
	CdpErasureWrite(batch);
	CdpRunHere(&delete_refold, &arg, NULL);
	return true;
}
