/*-------------------------------------------------------------------------
 *
 * chunk.c
 *	  Windows with many items: those that are older stand in rows of their own.
 *
 *	  A state with a window keeps every item until it has left the window.  Of
 *	  a node with many of them only the latest are in the node's row; the others
 *	  are cut into chunks, rows of cdp.window_items, in the order of time.  What
 *	  stays in the node's row of a chunk is where it begins and ends, and what
 *	  its items add up to without a window.  A value is then the sum of the
 *	  chunks that are inside the window as a whole, and of the items of the one
 *	  or two at its edges, whose rows are read.  So what an entry costs does not
 *	  follow the number of items in the window, but the number of chunks; as soon
 *	  as there are some small ones, they are made one.
 *
 *	  Not every aggregate has a small sum.  Of spans of time only those at both
 *	  ends of a chunk matter to what comes before and after; of the others in
 *	  between it is known what they add up to.  A list is looked for from the
 *	  latest items on and needs no sums.  What different values add up to is
 *	  kept in memory (tally.c).
 *
 *	  How items are cut depends on the order of arrival, and nothing else does.
 *
 * IDENTIFICATION
 *	  src/traits/chunk.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "storage/shmem.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "cdp.h"
#include "common/pg_prng.h"
#include "statement.h"
#include "traits/node.h"
#include "traits/traitset.h"

/* So many small chunks are made a large one. */
#define MERGE_CHUNKS	8

static CdpStatement load_items = {
	"SELECT w.items FROM cdp.window_items w"
	" WHERE w.owner = $1 AND w.trait = $2 AND w.number = $3",
	{"int8", "int4", "int4"}
};

static CdpStatement store_items = {
	"INSERT INTO cdp.window_items AS w (owner, trait, number, items)"
	" SELECT $1, unnest($2), unnest($3), unnest($4)"
	" ON CONFLICT (owner, trait, number) DO UPDATE SET items = excluded.items",
	{"int8", "int4[]", "int4[]", "trait_state[]"}
};

static CdpStatement delete_items = {
	"DELETE FROM cdp.window_items w"
	" USING (SELECT unnest($2) AS trait, unnest($3) AS number) AS u"
	" WHERE w.owner = $1 AND w.trait = u.trait AND w.number = u.number",
	{"int8", "int4[]", "int4[]"}
};

static CdpStatement delete_all_items = {
	"DELETE FROM cdp.window_items w WHERE w.owner = $1 AND w.trait = ANY ($2)",
	{"int8", "int4[]"}
};

static CdpStatement delete_owners = {
	"DELETE FROM cdp.window_items w WHERE w.owner = ANY ($1)",
	{"int8[]"}
};

/*
 * Read a chunk's row.  Who applies sees what the batch has written so far;
 * who reads, what the query sees that has seen the node's row.
 */
static struct varlena *
load_row(const CdpChunks *chunks, int32 number, MemoryContext context)
{
	bool		applying = CdpApplierLockMine();
	CdpUserContext saved;
	struct varlena *row = NULL;
	Datum		args[3];

	args[0] = Int64GetDatum(chunks->owner);
	args[1] = Int32GetDatum(chunks->trait);
	args[2] = Int32GetDatum(number);
	CdpBecomeOwner(&saved);
	SPI_connect();
	CdpPrepare(&load_items);
	if (SPI_execute_plan(load_items.plan, args, NULL,
						 CdpStatementsReadOnly || !applying, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the items of a window");
	if (SPI_processed == 1)
		row = CdpCellVarlena(0, 1, context);
	SPI_finish();
	CdpRestoreUser(&saved);
	if (row == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("items of the window of trait %d of node %lld are missing",
						chunks->trait, (long long) chunks->owner)));
	return row;
}

/*
 * The chunk's items.  They live as long as the state; or in another context,
 * when they need not be kept and are not there yet.
 */
CdpState *
CdpChunkItems(CdpState *state, CdpChunk *chunk, MemoryContext context)
{
	CdpState   *items = chunk->items;

	if (items == NULL)
	{
		MemoryContext where = context != NULL ? context : GetMemoryChunkContext(state);
		MemoryContext old = MemoryContextSwitchTo(where);
		struct varlena *row = load_row(state->chunks, chunk->number, where);

		items = CdpTraitStateUnpack(state->rules, row);
		pfree(row);
		MemoryContextSwitchTo(old);
		if (items->nitems != chunk->nitems)
			CdpStateDamaged("A chunk has another number of items.");
		if (context == NULL)
			chunk->items = items;
	}
	return items;
}

static CdpChunks *
make_chunks(const CdpStateRules *rules, int64 owner, int32 trait, int max)
{
	CdpChunks  *chunks = (CdpChunks *) palloc0(sizeof(CdpChunks));

	chunks->owner = owner;
	chunks->trait = trait;
	chunks->max = max;
	chunks->chunks = (CdpChunk *) palloc0(mul_size(max, sizeof(CdpChunk)));
	CdpStateRulesPlain(&chunks->plain, rules);
	return chunks;
}

/*
 * Windows need not begin and end in the order of time: one month after January
 * 30th at noon is later than one month after the 31st in the morning.
 */
static void
extend(CdpChunk *chunk, const CdpItem *item)
{
	chunk->begin = Min(chunk->begin, item->begin);
	chunk->last_begin = Max(chunk->last_begin, item->begin);
	chunk->end = Min(chunk->end, item->end);
	chunk->last_end = Max(chunk->last_end, item->end);
}

/* Do chunks keep what they add up to? */
static bool
has_sums(const CdpStateRules *rules)
{
	return rules->shape == CDP_SHAPE_SCALAR || rules->shape == CDP_SHAPE_SPANS;
}

static CdpState *
sum_of(CdpState *state, CdpChunk *chunk)
{
	if (chunk->sum == NULL)
	{
		CdpState   *items = CdpChunkItems(state, chunk, NULL);
		MemoryContext old = MemoryContextSwitchTo(GetMemoryChunkContext(state));

		chunk->sum = CdpStateMake(&state->chunks->plain);
		for (int i = 0; i < items->nitems; i++)
			(void) CdpStateAdd(chunk->sum, items->items[i].value, items->items[i].at,
							   0, 0, items->items[i].tie);
		if (state->rules->shape == CDP_SHAPE_SPANS)
			CdpStateClose(chunk->sum);
		MemoryContextSwitchTo(old);
	}
	return chunk->sum;
}

/* ---- an item that is added, and what all add up to ---- */

/*
 * Add an item where it belongs, when that is a chunk; false when it is not.
 */
bool
CdpChunksAddItem(CdpState *state, const CdpItem *item)
{
	CdpChunks  *chunks = state->chunks;
	int			low = 0;
	int			high;
	CdpChunk   *chunk;
	CdpItem		copy = *item;

	if (chunks == NULL || chunks->n == 0 ||
		item->at >= chunks->chunks[chunks->n - 1].last)
		return false;
	high = chunks->n - 1;
	while (low < high)
	{
		int			middle = (low + high + 1) / 2;

		if (chunks->chunks[middle].first <= item->at)
			low = middle;
		else
			high = middle - 1;
	}
	chunk = &chunks->chunks[low];
	(void) CdpStateAddItem(CdpChunkItems(state, chunk, NULL), &copy);
	if (state->rules->shape == CDP_SHAPE_SCALAR && chunk->sum != NULL)
		(void) CdpStateAdd(chunk->sum, item->value, item->at, 0, 0, item->tie);
	else
		chunk->sum = NULL;		/* to be made again */
	chunk->nitems++;
	chunk->dirty = true;
	chunk->first = Min(chunk->first, item->at);
	chunk->last = Max(chunk->last, item->at);
	extend(chunk, item);
	return true;
}

/* Has a state items between these times? */
static bool
has_between(const CdpState *state, TimestampTz from, TimestampTz to)
{
	int			low = 0;
	int			high = state->nitems;

	for (int i = 0; state->chunks != NULL && i < state->chunks->n; i++)
	{
		const CdpChunk *chunk = &state->chunks->chunks[i];

		if (chunk->first <= to && chunk->last >= from)
			return true;
	}
	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (state->items[middle].at < from)
			low = middle + 1;
		else
			high = middle;
	}
	return low < state->nitems && state->items[low].at <= to;
}

/*
 * Is what a chunk adds up to all that there is to know?  Spans of several nodes
 * must not lie in one another.
 */
static bool
stands_alone(CdpState **states, int nstates, int which, const CdpChunk *chunk)
{
	const CdpStateRules *rules = states[which]->rules;
	int64		margin = rules->has_counts ? rules->gap :
		(rules->weeks ? 16 : 3) * USECS_PER_DAY;

	if (!has_sums(rules))
		return false;
	for (int i = 0; rules->shape == CDP_SHAPE_SPANS && i < nstates; i++)
	{
		if (i != which &&
			has_between(states[i], chunk->first - margin, chunk->last + margin))
			return false;
	}
	return true;
}

/*
 * Add what is in the window to a state without window; *next is lowered to the
 * first later instant at which that changes.
 */
void
CdpChunksFinish(CdpState **states, int nstates, int which, CdpState *into,
				TimestampTz now, TimestampTz *next)
{
	CdpState   *state = states[which];
	CdpChunks  *chunks = state->chunks;
	bool		backwards = state->rules->shape == CDP_SHAPE_LIST;

	for (int n = 0; chunks != NULL && n < chunks->n; n++)
	{
		CdpChunk   *chunk = &chunks->chunks[backwards ? chunks->n - 1 - n : n];

		if (chunk->last_end <= now)
			continue;
		if (chunk->begin > now)
		{
			*next = Min(*next, chunk->begin);
			continue;
		}
		if (chunk->last_begin <= now && chunk->end > now &&
			stands_alone(states, nstates, which, chunk))
		{
			*next = Min(*next, chunk->end);
			CdpStateCombine(into, sum_of(state, chunk));
		}
		else if (CdpStateInside(CdpChunkItems(state, chunk, NULL), into, now, next))
			break;
	}
}

/*
 * Take the items of all chunks back: states of several nodes are combined.
 */
void
CdpChunksTakeBack(CdpState *into, CdpState *from)
{
	for (int i = 0; from->chunks != NULL && i < from->chunks->n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		CdpStateCombine(into, CdpChunkItems(from, &from->chunks->chunks[i], NULL));
	}
}

static void
mark_gone(CdpChunks *chunks, int32 number)
{
	if (chunks->ngone % 64 == 0)
	{
		Size		size = mul_size(chunks->ngone + 64, sizeof(int32));

		chunks->gone = chunks->gone == NULL ? (int32 *) palloc(size)
			: (int32 *) repalloc(chunks->gone, size);
	}
	chunks->gone[chunks->ngone++] = number;
}

/* Forget chunks that have left the window. */
void
CdpChunksExpire(CdpState *state, TimestampTz clock)
{
	CdpChunks  *chunks = state->chunks;
	int			kept = 0;

	if (chunks == NULL)
		return;
	for (int i = 0; i < chunks->n; i++)
	{
		if (chunks->chunks[i].last_end > clock)
			chunks->chunks[kept++] = chunks->chunks[i];
		else
			mark_gone(chunks, chunks->chunks[i].number);
	}
	chunks->n = kept;
}

/* ---- storing ---- */

/*
 * Make a chunk of n items, given in order.
 */
static void
set_chunk(CdpChunks *chunks, CdpChunk *chunk, const CdpStateRules *rules,
		  CdpItem *items, int n)
{
	chunk->nitems = n;
	chunk->first = items[0].at;
	chunk->last = items[n - 1].at;
	chunk->begin = chunk->last_begin = items[0].begin;
	chunk->end = chunk->last_end = items[0].end;
	chunk->dirty = true;
	chunk->items = CdpStateMake(rules);
	chunk->items->items = items;
	chunk->items->nitems = chunk->items->maxitems = n;
	chunk->sum = NULL;
	for (int i = 0; i < n; i++)
		extend(chunk, &items[i]);
}

static int32
new_number(const CdpChunks *chunks)
{
	int32		number = 0;

	for (int i = 0; i < chunks->n; i++)
		number = Max(number, chunks->chunks[i].number);
	for (int i = 0; i < chunks->ngone; i++)
		number = Max(number, chunks->gone[i]);
	return number + 1;
}

/*
 * Put n items, in order, in the place of the chunk at "place" (replace) or
 * before it, cut into several when there are too many.
 */
static void
put_chunks(CdpChunks *chunks, const CdpStateRules *rules, int place, bool replace,
		   const CdpItem *items, int n, int most)
{
	int			pieces = (n + most - 1) / most;
	int			more = pieces - (replace ? 1 : 0);
	int32		number = new_number(chunks);
	int			done = 0;

	if (chunks->n + more > chunks->max)
	{
		chunks->max = Max(2 * chunks->max, chunks->n + more);
		chunks->chunks = (CdpChunk *) repalloc_huge(chunks->chunks,
													mul_size(chunks->max, sizeof(CdpChunk)));
	}
	memmove(&chunks->chunks[place + pieces], &chunks->chunks[place + pieces - more],
			(chunks->n - (place + pieces - more)) * sizeof(CdpChunk));
	chunks->n += more;
	for (int i = 0; i < pieces; i++)
	{
		int			size = (n - done) / (pieces - i);
		CdpItem    *own = (CdpItem *) palloc(mul_size(size, sizeof(CdpItem)));
		CdpChunk   *chunk = &chunks->chunks[place + i];

		memcpy(own, items + done, size * sizeof(CdpItem));
		if (i > 0 || !replace)
			chunk->number = number++;
		set_chunk(chunks, chunk, rules, own, size);
		done += size;
	}
}

/*
 * Make the latest chunks one when there are many small ones.
 */
static void
merge_latest(CdpState *state)
{
	CdpChunks  *chunks = state->chunks;
	CdpState   *all;
	int			first = chunks->n;

	while (first > 0 && chunks->chunks[first - 1].nitems <= 2 * cdp_window_chunk)
		first--;
	if (chunks->n - first < MERGE_CHUNKS)
		return;
	all = CdpStateMake(state->rules);
	for (int i = first; i < chunks->n; i++)
	{
		CdpStateCombine(all, CdpChunkItems(state, &chunks->chunks[i], NULL));
		if (i > first)
			mark_gone(chunks, chunks->chunks[i].number);
	}
	chunks->n = first + 1;
	set_chunk(chunks, &chunks->chunks[first], state->rules, all->items, all->nitems);
}

/*
 * Cut a state so that neither the node's row nor a chunk has too many items.
 */
static void
arrange(CdpState *state, int64 owner, int32 trait, TimestampTz clock)
{
	CdpChunks  *chunks = state->chunks;
	int			most = cdp_window_chunk;

	for (int i = 0; chunks != NULL && i < chunks->n; i++)
	{
		CdpChunk   *chunk = &chunks->chunks[i];
		CdpState   *items = chunk->items;

		/*
		 * One at the window's edge is read until all of it has left: in
		 * small pieces.
		 */
		bool		edge = items != NULL && items->nitems > 2 * most &&
			((chunk->end <= clock && chunk->last_end > clock) ||
			 (chunk->begin <= clock && chunk->last_begin > clock));

		if (!chunk->dirty && !edge)
			continue;
		CHECK_FOR_INTERRUPTS();
		/* those that have left the window count nowhere any more */
		CdpStateExpire(items, clock);
		if (items->nitems == 0)
		{
			mark_gone(chunks, chunk->number);
			memmove(chunk, chunk + 1, (chunks->n - i - 1) * sizeof(CdpChunk));
			chunks->n--;
			i--;
		}
		else
		{
			int			before = chunks->n;

			/* late entries have made it larger than any */
			put_chunks(chunks, state->rules, i, true, items->items, items->nitems,
					   edge ? most : items->nitems > 2 * MERGE_CHUNKS * most ?
					   MERGE_CHUNKS * most : items->nitems);
			i += chunks->n - before;
		}
	}
	if (state->nitems > 2 * most)
	{
		int			n = (state->nitems - most) / most * most;

		if (chunks == NULL)
			chunks = state->chunks = make_chunks(state->rules, owner, trait, 4);
		put_chunks(chunks, state->rules, chunks->n, false, state->items, n, most);
		memmove(state->items, &state->items[n], (state->nitems - n) * sizeof(CdpItem));
		state->nitems -= n;
		merge_latest(state);
	}
}

static bool
may_have_chunks(const CdpStateRules *rules)
{
	return rules->windowed && rules->granularity == 0;
}

/*
 * The states of a slot are taken away: so are its rows, when it is stored.
 */
void
CdpChunksForget(CdpNodeAcc *acc, int index)
{
	CdpNodeSlot *slot = &acc->slots[index];

	if (slot->state != NULL ? slot->state->chunks != NULL :
		slot->raw != NULL && (slot->code & 0x80) != 0)
	{
		MemoryContext old = MemoryContextSwitchTo(acc->context);

		acc->forgotten = lappend_int(acc->forgotten, acc->set->traits[index]->id);
		MemoryContextSwitchTo(old);
	}
}

/*
 * Write the rows that change.
 */
static void
write_rows(CdpNodeAcc *acc, int64 owner)
{
	int			nset = 0;
	int			ngone = 0;
	int32	   *traits;
	int32	   *numbers;
	Datum	   *items;
	ListCell   *lc;
	CdpUserContext saved;
	Datum		args[4];

	for (int i = 0; i < acc->set->ntraits; i++)
	{
		CdpChunks  *chunks = acc->slots[i].state ? acc->slots[i].state->chunks : NULL;

		for (int j = 0; chunks != NULL && j < chunks->n; j++)
			nset += chunks->chunks[j].dirty;
		ngone += chunks != NULL ? chunks->ngone : 0;
	}
	if (nset == 0 && ngone == 0 && acc->forgotten == NIL)
		return;

	traits = (int32 *) palloc(mul_size(nset + ngone + list_length(acc->forgotten), sizeof(int32)));
	numbers = (int32 *) palloc(mul_size(nset + ngone + 1, sizeof(int32)));
	items = (Datum *) palloc(mul_size(nset + 1, sizeof(Datum)));
	CdpBecomeOwner(&saved);
	SPI_connect();
	args[0] = Int64GetDatum(owner);
	if (acc->forgotten != NIL)
	{
		int			n = 0;

		foreach(lc, acc->forgotten)
			traits[n++] = lfirst_int(lc);
		args[1] = CdpInt4Array(traits, n);
		CdpRun(&delete_all_items, args, NULL);
	}
	nset = ngone = 0;
	for (int i = 0; i < acc->set->ntraits; i++)
	{
		CdpChunks  *chunks = acc->slots[i].state ? acc->slots[i].state->chunks : NULL;

		for (int j = 0; chunks != NULL && j < chunks->ngone; j++)
		{
			traits[ngone] = chunks->trait;
			numbers[ngone++] = chunks->gone[j];
		}
	}
	if (ngone > 0)
	{
		args[1] = CdpInt4Array(traits, ngone);
		args[2] = CdpInt4Array(numbers, ngone);
		CdpRun(&delete_items, args, NULL);
	}
	for (int i = 0; i < acc->set->ntraits; i++)
	{
		CdpChunks  *chunks = acc->slots[i].state ? acc->slots[i].state->chunks : NULL;

		for (int j = 0; chunks != NULL && j < chunks->n; j++)
		{
			if (!chunks->chunks[j].dirty)
				continue;
			traits[nset] = chunks->trait;
			numbers[nset] = chunks->chunks[j].number;
			items[nset++] = PointerGetDatum(CdpTraitStatePack(chunks->chunks[j].items));
			if (has_sums(&chunks->plain))
				(void) sum_of(acc->slots[i].state, &chunks->chunks[j]);
			chunks->chunks[j].dirty = false;
		}
		if (chunks != NULL)
			chunks->ngone = 0;
	}
	if (nset > 0)
	{
		args[1] = CdpInt4Array(traits, nset);
		args[2] = CdpInt4Array(numbers, nset);
		args[3] = CdpVarlenaArray(items, NULL, nset, CdpTypeOid("trait_state"));
		CdpRun(&store_items, args, NULL);
	}
	SPI_finish();
	CdpRestoreUser(&saved);
	acc->forgotten = NIL;
}

/* What no other state is stored with, so that copies in memory can be told. */
static int64
new_stamp(void)
{
	return 1 + (int64) (pg_prng_uint64(&pg_global_prng_state) >> 2);
}

/*
 * The varlena to store in the row of the node "owner", as CdpNodeClose has it,
 * in the given context unless nothing was folded in; what does not stand in that
 * row is written.
 */
struct varlena *
CdpNodeStore(CdpNodeAcc *acc, int64 owner, TimestampTz clock, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(acc->context);

	for (int i = 0; acc->dirty && i < acc->set->ntraits; i++)
	{
		CdpNodeSlot *slot = &acc->slots[i];

		if (slot->dirty && may_have_chunks(slot->state->rules) &&
			(slot->state->chunks != NULL || slot->state->nitems > 2 * cdp_window_chunk))
		{
			CdpStateExpire(slot->state, clock);
			arrange(slot->state, owner, acc->set->traits[i]->id, clock);
			if (slot->state->chunks != NULL)
			{
				slot->state->chunks->stamp = new_stamp();
				CdpTallyStored(slot->state, clock);
			}
		}
	}
	write_rows(acc, owner);
	MemoryContextSwitchTo(old);
	return CdpNodeCloseIn(acc, clock, context);
}

/* These nodes are gone. */
void
CdpChunksDelete(const int64 *owners, int n)
{
	Datum		arg = CdpInt8Array(owners, n);

	CdpRun(&delete_owners, &arg, NULL);
}

/* ---- the directory as bytes ---- */

void
CdpChunksWrite(StringInfo buf, const CdpState *state)
{
	CdpChunks  *chunks = state->chunks;
	StringInfoData sum;
	TimestampTz at = 0;

	initStringInfo(&sum);
	CdpPutInt(buf, chunks->owner);
	CdpPutInt(buf, chunks->trait);
	CdpPutUInt(buf, chunks->stamp);
	CdpPutUInt(buf, chunks->n);
	for (int i = 0; i < chunks->n; i++)
	{
		CdpChunk   *chunk = &chunks->chunks[i];

		if (chunk->dirty)
			elog(ERROR, "items of a window have not been written");
		CdpPutUInt(buf, chunk->number);
		CdpPutUInt(buf, chunk->nitems);
		CdpPutInt(buf, (int64) ((uint64) chunk->first - (uint64) at));
		CdpPutInt(buf, (int64) ((uint64) chunk->last - (uint64) chunk->first));
		at = chunk->last;
		if (state->rules->delayed)
		{
			CdpPutInt(buf, (int64) ((uint64) chunk->begin - (uint64) chunk->first));
			CdpPutInt(buf, (int64) ((uint64) chunk->last_begin - (uint64) chunk->last));
		}
		CdpPutInt(buf, (int64) ((uint64) chunk->end - (uint64) chunk->first));
		CdpPutInt(buf, (int64) ((uint64) chunk->last_end - (uint64) chunk->last));
		if (!has_sums(state->rules))
			continue;
		resetStringInfo(&sum);
		CdpStateWrite(&sum, sum_of(unconstify(CdpState *, state), chunk));
		CdpPutUInt(buf, sum.len);
		appendBinaryStringInfo(buf, sum.data, sum.len);
		if (state->rules->shape == CDP_SHAPE_SPANS)
		{
			CdpPutUInt(buf, chunk->sum->closed);
			CdpPutUInt(buf, chunk->sum->closed_length);
			CdpPutUInt(buf, chunk->sum->closed_count);
		}
	}
	pfree(sum.data);
}

void
CdpChunksRead(CdpReader *reader, CdpState *state)
{
	int64		owner = CdpGetInt(reader);
	int32		trait = (int32) CdpGetInt(reader);
	int64		stamp = (int64) CdpGetUInt(reader);
	int			n = CdpGetLength(reader);
	CdpChunks  *chunks = state->chunks = make_chunks(state->rules, owner, trait, n + 4);
	TimestampTz at = 0;

	if (!may_have_chunks(state->rules))
		CdpStateDamaged("There are chunks.");
	chunks->stamp = stamp;
	for (int i = 0; i < n; i++)
	{
		CdpChunk   *chunk = &chunks->chunks[chunks->n++];
		int			len;

		chunk->number = (int32) CdpGetUInt(reader);
		chunk->nitems = (int) CdpGetUInt(reader);
		chunk->first = (TimestampTz) ((uint64) at + (uint64) CdpGetInt(reader));
		chunk->last = (TimestampTz) ((uint64) chunk->first + (uint64) CdpGetInt(reader));
		at = chunk->last;
		chunk->begin = chunk->first;
		chunk->last_begin = chunk->last;
		if (state->rules->delayed)
		{
			chunk->begin = (TimestampTz) ((uint64) chunk->first + (uint64) CdpGetInt(reader));
			chunk->last_begin = (TimestampTz) ((uint64) chunk->last + (uint64) CdpGetInt(reader));
		}
		chunk->end = (TimestampTz) ((uint64) chunk->first + (uint64) CdpGetInt(reader));
		chunk->last_end = (TimestampTz) ((uint64) chunk->last + (uint64) CdpGetInt(reader));
		if (!has_sums(state->rules))
			continue;
		len = CdpGetLength(reader);
		chunk->sum = CdpStateRead(&chunks->plain, CdpGetBytes(reader, len), len);
		if (state->rules->shape == CDP_SHAPE_SPANS)
		{
			chunk->sum->closed = (int64) CdpGetUInt(reader);
			chunk->sum->closed_length = (int64) CdpGetUInt(reader);
			chunk->sum->closed_count = (int64) CdpGetUInt(reader);
		}
	}
}

void
CdpChunksSend(StringInfo buf, const CdpState *state)
{
	CdpChunks  *chunks = state->chunks;

	pq_sendint64(buf, chunks->owner);
	pq_sendint32(buf, chunks->trait);
	pq_sendint32(buf, chunks->n);
	for (int i = 0; i < chunks->n; i++)
	{
		CdpChunk   *chunk = &chunks->chunks[i];

		pq_sendint32(buf, chunk->number);
		pq_sendint32(buf, chunk->nitems);
		pq_sendint64(buf, chunk->first);
		pq_sendint64(buf, chunk->last);
		pq_sendint64(buf, chunk->begin);
		pq_sendint64(buf, chunk->last_begin);
		pq_sendint64(buf, chunk->end);
		pq_sendint64(buf, chunk->last_end);
		if (!has_sums(state->rules))
			continue;
		CdpStateSend(buf, sum_of(unconstify(CdpState *, state), chunk));
		if (state->rules->shape == CDP_SHAPE_SPANS)
		{
			pq_sendint64(buf, chunk->sum->closed);
			pq_sendint64(buf, chunk->sum->closed_length);
			pq_sendint64(buf, chunk->sum->closed_count);
		}
	}
}

static void
bad_chunk(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
			 errmsg("invalid chunks of a state of a trait"),
			 errdetail("%s", detail)));
}

/*
 * The rows are read with the rights of the extension's owner, for the value of
 * a state that the caller may see.  One that the caller has made up must not
 * lead to the rows of somebody else.
 */
static void
need_rows(void)
{
	Oid			table = get_relname_relid("window_items", CdpSchemaOid());

	if (!OidIsValid(table) ||
		pg_class_aclcheck(table, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to make a state whose items are in table \"cdp.window_items\""),
				 errdetail("It needs SELECT on that table.")));
}

static void
receive_sum(StringInfo buf, CdpChunks *chunks, CdpChunk *chunk)
{
	CdpState   *sum = CdpStateReceive(buf);

	if (!CdpStateRulesSame(sum->rules, &chunks->plain))
		bad_chunk("A sum is of another aggregate.");
	sum->rules = &chunks->plain;
	if (sum->rules->shape == CDP_SHAPE_SPANS)
	{
		sum->closed = pq_getmsgint64(buf);
		sum->closed_length = pq_getmsgint64(buf);
		sum->closed_count = pq_getmsgint64(buf);
		if (sum->closed < 0 || sum->closed > PG_INT32_MAX || sum->closed_length < 0 ||
			sum->closed_count < 0 || sum->nitems > 4 ||
			(sum->nitems < 4 && sum->closed > 0))
			bad_chunk("Spans are missing.");
	}
	chunk->sum = sum;
}

void
CdpChunksReceive(StringInfo buf, CdpState *state)
{
	int64		owner = pq_getmsgint64(buf);
	int32		trait = (int32) pq_getmsgint(buf, 4);
	int32		n = (int32) pq_getmsgint(buf, 4);
	CdpChunks  *chunks;

	if (!may_have_chunks(state->rules))
		bad_chunk("The aggregate has none.");
	need_rows();
	if (owner <= 0 || trait <= 0 || n <= 0 || n > (buf->len - buf->cursor) / 56)
		bad_chunk("The number of chunks is impossible.");
	chunks = state->chunks = make_chunks(state->rules, owner, trait, n);
	for (int i = 0; i < n; i++)
	{
		CdpChunk   *chunk = &chunks->chunks[chunks->n++];

		CHECK_FOR_INTERRUPTS();
		chunk->number = (int32) pq_getmsgint(buf, 4);
		chunk->nitems = (int32) pq_getmsgint(buf, 4);
		chunk->first = CdpReceiveTime(buf);
		chunk->last = CdpReceiveTime(buf);
		chunk->begin = CdpReceiveEnd(buf);
		chunk->last_begin = CdpReceiveEnd(buf);
		chunk->end = CdpReceiveEnd(buf);
		chunk->last_end = CdpReceiveEnd(buf);
		if (has_sums(state->rules))
			receive_sum(buf, chunks, chunk);
		if (chunk->number <= 0 || chunk->number == PG_INT32_MAX || chunk->nitems <= 0)
			bad_chunk("A number is impossible.");
		if (chunk->first > chunk->last || chunk->begin > chunk->last_begin ||
			chunk->end > chunk->last_end || chunk->end <= chunk->begin ||
			(i > 0 && chunk->first < chunk[-1].last))
			bad_chunk("Chunks are not in order.");
	}
}
