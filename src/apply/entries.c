/*-------------------------------------------------------------------------
 *
 * entries.c
 *	  The entries that count, by owner: the way from a node to its history.
 *
 *	  A row and an index entry for each would cost more than folding it.  So
 *	  references to the last few are packed in the owner's row of
 *	  cdp.identities, which a batch writes anyhow, and go to cdp.entry_pieces,
 *	  many in a row, when they become too many.  The view cdp.entries and the
 *	  function cdp.entries_of() show both as rows.
 *
 *	  Packed form, after the varlena header: a version byte, the number of
 *	  references, then each as four integers relative to the first one (time,
 *	  number, transaction; time of receipt relative to its own time) and whom
 *	  it names beside its owner.  So one is appended without unpacking the
 *	  others.  Their order means nothing.
 *
 *	  Whom it names is 0 for nobody, else some bits of a hash of the node's
 *	  number, else that it may be anybody.  So entries that name a certain node
 *	  are found without reading all that its neighbour owns.
 *
 * IDENTIFICATION
 *	  src/apply/entries.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/timestamp.h"

#include "apply/batch.h"
#include "compat.h"
#include "statement.h"
#include "traits/state.h"

#define REFS_VERSION	1

/* So many stay in the owner's row, so many are in a piece. */
#define MAX_RECENT		16
#define MAX_PIECE		128

/* Whom an entry names: 14 bits take two bytes. */
#define NAMES_NOBODY	0
#define NAMES_ANYBODY	16383

/* Who names one of more nodes than so many is found by reading. */
#define MAX_NAMED		100

typedef struct Ref
{
	TimestampTz at;
	int64		entry;
	int64		xid;
	TimestampTz received_at;
	int32		names;
} Ref;

static CdpStatement insert_pieces = {
	"INSERT INTO cdp.entry_pieces (owner, since, until, refs)"
	" SELECT unnest($1), unnest($2), unnest($3), unnest($4)",
	{"int8[]", "timestamptz[]", "timestamptz[]", "bytea[]"}
};

static CdpStatement find_pieces = {
	"SELECT p.ctid, p.since, p.until FROM cdp.entry_pieces p"
	" WHERE p.owner = $1 AND p.until >= $2 AND p.since <= $3",
	{"int8", "timestamptz", "timestamptz"}
};

static CdpStatement read_pieces = {
	"SELECT p.ctid, p.refs FROM cdp.entry_pieces p WHERE p.ctid = ANY ($1)",
	{"tid[]"}
};

static CdpStatement replace_piece = {
	"UPDATE cdp.entry_pieces p SET refs = $2 WHERE p.ctid = $1",
	{"tid", "bytea"}
};

static CdpStatement delete_piece = {
	"DELETE FROM cdp.entry_pieces p WHERE p.ctid = $1",
	{"tid"}
};

static CdpStatement replace_recent = {
	"UPDATE cdp.identities i SET recent = $2 WHERE i.node_id = $1",
	{"int8", "bytea"}
};

/* Differences wrap around: any two times have one. */
static int64
difference(int64 a, int64 b)
{
	return (int64) ((uint64) a - (uint64) b);
}

static int64
sum(int64 a, int64 b)
{
	return (int64) ((uint64) a + (uint64) b);
}

static void
open_refs(CdpReader *reader, struct varlena *refs, int *n)
{
	reader->p = VARDATA_ANY(refs);
	reader->end = reader->p + VARSIZE_ANY_EXHDR(refs);
	if (*CdpGetBytes(reader, 1) != REFS_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("unknown version of packed references to entries"),
				 errhint("Upgrade the cdp library.")));
	*n = CdpGetLength(reader);
}

static void
get_ref(CdpReader *reader, const Ref *base, Ref *ref)
{
	ref->at = sum(base->at, CdpGetInt(reader));
	ref->entry = sum(base->entry, CdpGetInt(reader));
	ref->xid = sum(base->xid, CdpGetInt(reader));
	ref->received_at = sum(ref->at, CdpGetInt(reader));
	ref->names = (int32) CdpGetUInt(reader);
}

static void
put_ref(StringInfo buf, const Ref *base, const Ref *ref)
{
	CdpPutInt(buf, difference(ref->at, base->at));
	CdpPutInt(buf, difference(ref->entry, base->entry));
	CdpPutInt(buf, difference(ref->xid, base->xid));
	CdpPutInt(buf, difference(ref->received_at, ref->at));
	CdpPutUInt(buf, ref->names);
}

static int32
name_of(int64 node)
{
	return 1 + DatumGetUInt32(hash_uint32((uint32) node ^ (uint32) (node >> 32))) % (NAMES_ANYBODY - 1);
}

static int32
names_of(const CdpEntry *entry)
{
	if (entry->nnodes == 1)
		return NAMES_NOBODY;
	return entry->nnodes == 2 ? name_of(entry->nodes[1]) : NAMES_ANYBODY;
}

/*
 * What is asked of entries that name one of these nodes beside their owner; NULL,
 * which asks for all, where these are too many.
 */
ArrayType *
CdpEntriesNaming(const int64 *nodes, int n)
{
	Datum	   *names;

	if (n > MAX_NAMED)
		return NULL;
	names = palloc(sizeof(Datum) * Max(n, 1));
	for (int i = 0; i < n; i++)
		names[i] = Int32GetDatum(name_of(nodes[i]));
	return construct_array(names, n, INT4OID, sizeof(int32), true, TYPALIGN_INT);
}

/*
 * All references, palloc'd with room for some more.
 */
static Ref *
unpack(struct varlena *refs, int room, int *n)
{
	CdpReader	reader;
	Ref			zero = {0};
	Ref		   *result;
	int			i;

	*n = 0;
	if (refs == NULL)
		return palloc(sizeof(Ref) * Max(room, 1));
	open_refs(&reader, refs, n);
	result = palloc(sizeof(Ref) * ((Size) *n + room + 1));
	for (i = 0; i < *n; i++)
		get_ref(&reader, i == 0 ? &zero : result, &result[i]);
	return result;
}

/*
 * More references behind those of old; NULL when there are none at all.
 */
static struct varlena *
pack(struct varlena *old, const Ref *refs, int n)
{
	StringInfoData buf;
	struct varlena *result;
	CdpReader	reader;
	Ref			base = {0};
	int			nold = 0;
	int			i;

	if (old != NULL)
	{
		open_refs(&reader, old, &nold);
		if (nold == 0)
			old = NULL;
	}
	if (nold + n == 0)
		return NULL;
	initStringInfo(&buf);
	appendStringInfoSpaces(&buf, VARHDRSZ);
	appendStringInfoCharMacro(&buf, REFS_VERSION);
	CdpPutUInt(&buf, nold + n);
	if (old != NULL)
	{
		appendBinaryStringInfo(&buf, reader.p, reader.end - reader.p);
		get_ref(&reader, &base, &base);
	}
	for (i = 0; i < n; i++)
	{
		put_ref(&buf, &base, &refs[i]);
		if (nold == 0 && i == 0)
			base = refs[0];
	}
	/* thousands of these live until the batch ends: no larger than they are */
	result = palloc(buf.len);
	memcpy(result, buf.data, buf.len);
	SET_VARSIZE(result, buf.len);
	pfree(buf.data);
	return result;
}

static int
ref_order(const void *a, const void *b)
{
	const Ref  *x = a;
	const Ref  *y = b;

	if (x->at != y->at)
		return x->at < y->at ? -1 : 1;
	return x->entry < y->entry ? -1 : x->entry > y->entry ? 1 : 0;
}

static struct varlena *
recent_of(CdpNode *node)
{
	return node->recent_changed ? node->new_recent : node->recent;
}

/* Rows of cdp.entry_pieces to be written. */
typedef struct Pieces
{
	int			n;
	int			max;
	int64	   *owners;
	TimestampTz *since;
	TimestampTz *until;
	Datum	   *refs;
} Pieces;

static void
add_pieces(Pieces *pieces, int64 owner, Ref *refs, int n)
{
	int			i;

	qsort(refs, n, sizeof(Ref), ref_order);
	for (i = 0; i < n; i += MAX_PIECE)
	{
		int			k = Min(MAX_PIECE, n - i);

		Assert(pieces->n < pieces->max);
		pieces->owners[pieces->n] = owner;
		pieces->since[pieces->n] = refs[i].at;
		pieces->until[pieces->n] = refs[i + k - 1].at;
		pieces->refs[pieces->n] = PointerGetDatum(pack(NULL, refs + i, k));
		pieces->n++;
	}
}

/*
 * These entries count: note them with their owners, which are active.  now:
 * write the owners' rows at once, for whoever reads them in this batch.
 */
void
CdpEntriesAdd(CdpBatch *batch, CdpEntry **entries, int n, bool now)
{
	CdpNumbered *order;
	Ref		   *refs;
	Pieces		pieces;
	int			i,
				first;
	Datum		args[4];
	char		nulls[2] = {' ', ' '};

	if (n == 0)
		return;
	order = palloc(sizeof(CdpNumbered) * n);
	for (i = 0; i < n; i++)
	{
		order[i].number = entries[i]->owner;
		order[i].then = entries[i]->at;
		order[i].item = entries[i];
	}
	CdpNumberedSort(order, n);
	refs = palloc(sizeof(Ref) * n);

	/* one for each owner that overflows, more only where more than one fill */
	pieces.n = 0;
	pieces.max = n + 1;
	pieces.owners = palloc(sizeof(int64) * pieces.max);
	pieces.since = palloc(sizeof(TimestampTz) * pieces.max);
	pieces.until = palloc(sizeof(TimestampTz) * pieces.max);
	pieces.refs = palloc(sizeof(Datum) * pieces.max);

	for (first = 0; first < n; first = i)
	{
		int64		owner = order[first].number;
		CdpNode    *node = ((CdpEntry *) order[first].item)->owner_node;
		struct varlena *old = recent_of(node);
		CdpReader	reader;
		int			nold = 0;
		int			k = 0;

		CHECK_FOR_INTERRUPTS();
		for (i = first; i < n && order[i].number == owner; i++, k++)
		{
			CdpEntry   *entry = order[i].item;

			refs[k].at = entry->at;
			refs[k].entry = entry->id;
			refs[k].xid = entry->xid;
			refs[k].received_at = entry->received_at;
			refs[k].names = names_of(entry);
		}
		if (old != NULL)
			open_refs(&reader, old, &nold);
		if (nold + k <= MAX_RECENT)
			node->new_recent = pack(old, refs, k);
		else
		{
			Ref		   *all = unpack(old, k, &nold);

			memcpy(all + nold, refs, sizeof(Ref) * k);
			add_pieces(&pieces, owner, all, nold + k);
			pfree(all);
			node->new_recent = NULL;
		}
		node->recent_changed = true;
		if (now)
		{
			args[0] = Int64GetDatum(owner);
			args[1] = PointerGetDatum(node->new_recent);
			nulls[1] = node->new_recent == NULL ? 'n' : ' ';
			CdpRun(&replace_recent, args, nulls);
			ItemPointerSetInvalid(&node->place);
		}
	}
	if (pieces.n > 0)
	{
		args[0] = CdpInt8Array(pieces.owners, pieces.n);
		args[1] = CdpTimestampArray(pieces.since, pieces.n);
		args[2] = CdpTimestampArray(pieces.until, pieces.n);
		args[3] = CdpVarlenaArray(pieces.refs, NULL, pieces.n, BYTEAOID);
		CdpRun(&insert_pieces, args, NULL);
	}
	pfree(refs);
	pfree(order);
}

/*
 * The entries of a batch, before the rows of their owners are written.
 */
void
CdpWriteEntries(CdpBatch *batch)
{
	CdpEntry  **counting = palloc(sizeof(CdpEntry *) * Max(batch->nentries, 1));
	int			n = 0;
	int			i;

	CdpWithheldWrite(batch);
	for (i = 0; i < batch->nentries; i++)
		if (batch->counts[i] && batch->entries[i].owner != 0 &&
			!batch->entries[i].withheld)
			counting[n++] = &batch->entries[i];
	CdpEntriesAdd(batch, counting, n, false);
	pfree(counting);
}

/* By time, then number. */
static int
entry_order(const void *a, const void *b)
{
	const CdpEntry *x = *(const CdpEntry *const *) a;
	const CdpEntry *y = *(const CdpEntry *const *) b;

	if (x->at != y->at)
		return x->at < y->at ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id ? 1 : 0;
}

static int
owner_order(const void *a, const void *b)
{
	const CdpEntry *x = *(const CdpEntry *const *) a;
	const CdpEntry *y = *(const CdpEntry *const *) b;

	if (x->owner != y->owner)
		return x->owner < y->owner ? -1 : 1;
	return entry_order(a, b);
}

/*
 * The first of the entries, in order, that is not before this time; n: none.
 */
static int
first_since(CdpEntry **entries, int n, TimestampTz at)
{
	int			low = 0;
	int			high = n;

	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (entries[middle]->at < at)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/*
 * Without these entries, which are in order; returns how many were among them.
 */
static int
without(struct varlena *old, CdpEntry **entries, int nentries, struct varlena **new)
{
	int			n;
	Ref		   *refs = unpack(old, 0, &n);
	int			kept = 0;

	for (int i = 0; i < n; i++)
	{
		int			k = first_since(entries, nentries, refs[i].at);

		while (k < nentries && entries[k]->at == refs[i].at && entries[k]->id < refs[i].entry)
			k++;
		if (k == nentries || entries[k]->at != refs[i].at || entries[k]->id != refs[i].entry)
			refs[kept++] = refs[i];
		else
			entries[k]->counted = true;
	}
	if (kept < n)
		*new = pack(NULL, refs, kept);
	pfree(refs);
	return n - kept;
}

/*
 * The pieces of an owner that may have one of the entries, which are in order.
 */
static Datum
pieces_with(int64 owner, CdpEntry **entries, int n)
{
	Datum		args[3];
	Datum	   *found;
	uint64		nrows;
	int			nfound = 0;

	args[0] = Int64GetDatum(owner);
	args[1] = TimestampTzGetDatum(entries[0]->at);
	args[2] = TimestampTzGetDatum(entries[n - 1]->at);
	nrows = CdpRunHere(&find_pieces, args, NULL);
	found = palloc(sizeof(Datum) * Max(nrows, 1));
	for (uint64 r = 0; r < nrows; r++)
	{
		int			k = first_since(entries, n, CdpCellInt8(r, 2));
		bool		isnull;

		if (k < n && entries[k]->at <= CdpCellInt8(r, 3))
			found[nfound++] = datumCopy(CdpCell(r, 1, &isnull), false, sizeof(ItemPointerData));
	}
	SPI_freetuptable(SPI_tuptable);
	return PointerGetDatum(construct_array(found, nfound, TIDOID, sizeof(ItemPointerData), false,
										   TYPALIGN_SHORT));
}

/*
 * These entries of one owner, in order, do not count any more.
 */
static void
forget(CdpBatch *batch, CdpEntry **entries, int n)
{
	int64		owner = entries[0]->owner;
	CdpNode    *node = CdpGraphNode(batch->graph, owner);
	struct varlena *left;
	Datum		args[2];
	char		nulls[2] = {' ', ' '};
	SPITupleTable *rows;
	uint64		nrows;
	int			found = 0;

	if (recent_of(node) != NULL)
		found = without(recent_of(node), entries, n, &left);
	if (found > 0)
	{
		node->new_recent = left;
		node->recent_changed = true;
		args[0] = Int64GetDatum(owner);
		args[1] = PointerGetDatum(left);
		nulls[1] = left == NULL ? 'n' : ' ';
		CdpRunHere(&replace_recent, args, nulls);
		ItemPointerSetInvalid(&node->place);
	}
	if (found == n)
		return;
	args[0] = pieces_with(owner, entries, n);
	if (ARR_NDIM(DatumGetArrayTypeP(args[0])) == 0)
		return;
	nrows = CdpRunHere(&read_pieces, args, NULL);
	rows = SPI_tuptable;
	for (uint64 r = 0; r < nrows; r++)
	{
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		SPI_tuptable = rows;
		args[0] = CdpCell(r, 1, &isnull);
		if (without(CdpCellVarlena(r, 2, CurrentMemoryContext), entries, n, &left) == 0)
			continue;
		args[1] = PointerGetDatum(left);
		CdpRunHere(left == NULL ? &delete_piece : &replace_piece, args, NULL);
	}
	SPI_freetuptable(rows);
}

/*
 * Entries do not count any more.  Written at once, for who withdraws them reads
 * the others; their owners, where they have one, are active.  Sets counted where
 * they did.
 */
void
CdpEntriesForget(CdpBatch *batch, CdpEntry *entries, int n)
{
	CdpEntry  **order = palloc(sizeof(CdpEntry *) * Max(n, 1));
	int			norder = 0;
	int			end;

	for (int i = 0; i < n; i++)
	{
		entries[i].counted = false;
		if (entries[i].owner != 0)
			order[norder++] = &entries[i];
	}
	qsort(order, norder, sizeof(CdpEntry *), owner_order);
	for (int i = 0; i < norder; i = end)
	{
		end = i + 1;
		while (end < norder && order[end]->owner == order[i]->owner)
			end++;
		forget(batch, order + i, end - i);
	}
	pfree(order);
}

/*
 * Those that may name one of these; returns how many are left.
 */
static int
keep_naming(Ref *refs, int n, ArrayType *names)
{
	const int32 *sought = (const int32 *) ARR_DATA_PTR(names);
	int			nsought = ArrayGetNItems(ARR_NDIM(names), ARR_DIMS(names));
	int			kept = 0;
	int			i,
				j;

	for (i = 0; i < n; i++)
	{
		bool		keep = refs[i].names == NAMES_ANYBODY;

		for (j = 0; j < nsought && !keep; j++)
			keep = refs[i].names == sought[j];
		if (keep)
			refs[kept++] = refs[i];
	}
	return kept;
}

PG_FUNCTION_INFO_V1(cdp_unpack_entries);

/*
 * cdp.unpack_entries(refs bytea, [names int[],] OUT at, OUT entry, OUT xid, OUT received_at)
 */
Datum
cdp_unpack_entries(PG_FUNCTION_ARGS)
{
	FuncCallContext *call;
	Ref		   *refs;

	if (SRF_IS_FIRSTCALL())
	{
		MemoryContext old;
		Ref		   *all;
		int			n;

		call = SRF_FIRSTCALL_INIT();
		old = MemoryContextSwitchTo(call->multi_call_memory_ctx);
		all = unpack(PG_ARGISNULL(0) ? NULL : PG_GETARG_VARLENA_PP(0), 0, &n);
		if (PG_NARGS() > 1 && !PG_ARGISNULL(1))
		{
			if (array_contains_nulls(PG_GETARG_ARRAYTYPE_P(1)))
				ereport(ERROR, errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("names must not contain nulls"));
			n = keep_naming(all, n, PG_GETARG_ARRAYTYPE_P(1));
		}
		call->user_fctx = all;
		call->max_calls = n;
		if (get_call_result_type(fcinfo, NULL, &call->tuple_desc) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "return type must be a row type");
		call->tuple_desc = BlessTupleDesc(call->tuple_desc);
		MemoryContextSwitchTo(old);
	}
	call = SRF_PERCALL_SETUP();
	refs = call->user_fctx;
	if (call->call_cntr < call->max_calls)
	{
		Ref		   *ref = &refs[call->call_cntr];
		Datum		values[4];
		bool		isnull[4] = {false, false, false, false};

		values[0] = TimestampTzGetDatum(ref->at);
		values[1] = Int64GetDatum(ref->entry);
		values[2] = Int64GetDatum(ref->xid);
		values[3] = TimestampTzGetDatum(ref->received_at);
		SRF_RETURN_NEXT(call, HeapTupleGetDatum(heap_form_tuple(call->tuple_desc,
																values, isnull)));
	}
	SRF_RETURN_DONE(call);
}
