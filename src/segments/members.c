/*-------------------------------------------------------------------------
 *
 * members.c
 *	  Set algebra over the members of segments: how many are in two of them,
 *	  who is in these and not in those.
 *
 *	  Memberships are rows.  A question about sets reads each segment's rows
 *	  once, in the order of profile ids, by an index-only scan, straight into a
 *	  compressed set; what follows is bitwise.  A set has a piece for each
 *	  65,536 ids of which it has some: while there are few an ascending array,
 *	  then a bitmap, so that it never needs more than 2 bytes a member or 8 kB
 *	  a piece.  Nothing is kept between calls: doc/segments.md has what that
 *	  costs and what kept bitmaps would.
 *
 * IDENTIFICATION
 *	  src/segments/members.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "tcop/dest.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "cdp.h"
#include "compat.h"
#include "segments/segments.h"

#define PIECE_IDS 65536
#define PIECE_WORDS (PIECE_IDS / 64)
#define ARRAY_MAX 4096 /* as an array it would be larger than a bitmap */

typedef struct Piece
{
	int64		key;			/* profile id / PIECE_IDS */
	int			n;				/* members */
	int			room;			/* of array */
	uint16	   *array;			/* ascending; NULL: words */
	uint64	   *words;
} Piece;

typedef struct MemberSet
{
	char	   *name;
	int64		n;
	int			npieces;
	int			room;
	Piece	   *pieces;			/* ascending by key */
	MemoryContext context;
	int			next;			/* while pieces are gone through */
} MemberSet;

/* Puts rows into a set instead of into a result. */
typedef struct MemberReceiver
{
	DestReceiver dest;
	MemberSet  *set;
} MemberReceiver;

static Piece *
add_piece(MemberSet *set, int64 key)
{
	Piece	   *piece;

	if (set->npieces == set->room)
	{
		set->room = Max(set->room * 2, 16);
		set->pieces = set->pieces == NULL ? MemoryContextAlloc(set->context, sizeof(Piece) * set->room) : repalloc_huge(set->pieces, sizeof(Piece) * set->room);
	}
	piece = &set->pieces[set->npieces++];
	memset(piece, 0, sizeof(Piece));
	piece->key = key;
	return piece;
}

static void
make_bitmap(MemberSet *set, Piece *piece)
{
	piece->words = MemoryContextAllocZero(set->context, PIECE_IDS / 8);
	for (int i = 0; i < piece->n; i++)
		piece->words[piece->array[i] / 64] |= UINT64CONST(1) << piece->array[i] % 64;
	pfree(piece->array);
	piece->array = NULL;
}

/*
 * Add an id that is greater than all before it.
 */
static void
add_member(MemberSet *set, int64 id)
{
	int64		key = id / PIECE_IDS;
	uint16		low = (uint16) (id % PIECE_IDS);
	Piece	   *piece = set->npieces > 0 ? &set->pieces[set->npieces - 1] : NULL;

	if (piece == NULL || piece->key != key)
		piece = add_piece(set, key);
	if (piece->words == NULL && piece->n == ARRAY_MAX)
		make_bitmap(set, piece);
	if (piece->words != NULL)
		piece->words[low / 64] |= UINT64CONST(1) << low % 64;
	else
	{
		if (piece->n == piece->room)
		{
			piece->room = Max(piece->room * 2, 16);
			piece->array = piece->array == NULL ? MemoryContextAlloc(set->context, sizeof(uint16) * piece->room) : repalloc(piece->array, sizeof(uint16) * piece->room);
		}
		piece->array[piece->n] = low;
	}
	piece->n++;
	set->n++;
}

static bool
receive(TupleTableSlot *slot, DestReceiver *dest)
{
	bool		isnull;

	add_member(((MemberReceiver *) dest)->set, DatumGetInt64(slot_getattr(slot, 1, &isnull)));
	return true;
}

static void
receive_startup(DestReceiver *dest, int operation, TupleDesc desc)
{
}

static void
receive_nothing(DestReceiver *dest)
{
}

/*
 * The members of the segment of that name as of the applied clock; the caller
 * is the extension's owner and connected.
 */
static void
read_members(MemberSet *set, Datum name)
{
	MemberReceiver receiver = { { receive, receive_startup, receive_nothing, receive_nothing,
								  DestTuplestore },
								set };
	SPIExecuteOptions options;
	SPIPlanPtr	plan;
	ParamListInfo params = makeParamList(1);
	Oid			type = TEXTOID;
	bool		isnull;

	if (SPI_execute_with_args("SELECT id FROM cdp.segment_definitions WHERE name = $1 AND NOT hidden",
							  1, &type, &name, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look up a segment");
	if (SPI_processed == 0)
		CdpSegmentMissing(set->name);
	params->params[0].value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
											1, &isnull);
	params->params[0].isnull = false;
	params->params[0].pflags = PARAM_FLAG_CONST;
	params->params[0].ptype = INT4OID;

	type = INT4OID;
	plan = SPI_prepare("SELECT profile_id FROM cdp.segment_members"
					   " WHERE segment_id = $1 AND member ORDER BY profile_id",
					   1, &type);
	if (plan == NULL)
		elog(ERROR, "could not prepare the reading of members");
	memset(&options, 0, sizeof(options));
	options.params = params;
	options.read_only = true;
	options.dest = &receiver.dest;
	if (SPI_execute_plan_extended(plan, &options) != SPI_OK_SELECT)
		elog(ERROR, "could not read the members of a segment");
	SPI_freeplan(plan);
}

static int
by_name(const void *a, const void *b)
{
	return strcmp(((const MemberSet *) a)->name, ((const MemberSet *) b)->name);
}

/*
 * The sets of the segments that an array names, each once, in the order of
 * their names.
 */
static MemberSet *
read_sets(ArrayType *names, int *n)
{
	MemoryContext context = CurrentMemoryContext;
	CdpUserContext saved;
	MemberSet  *sets;
	Datum	   *elements;
	bool	   *nulls;
	int			nelements;

	deconstruct_array(names, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &nelements);
	sets = palloc0(sizeof(MemberSet) * Max(nelements, 1));
	for (int i = 0; i < nelements; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("the name of a segment must not be null")));
		sets[i].name = TextDatumGetCString(elements[i]);
		sets[i].context = context;
	}
	qsort(sets, nelements, sizeof(MemberSet), by_name);
	*n = 0;
	for (int i = 0; i < nelements; i++)
		if (*n == 0 || strcmp(sets[*n - 1].name, sets[i].name) != 0)
			sets[(*n)++] = sets[i];

	CdpBecomeOwner(&saved);
	SPI_connect();
	for (int i = 0; i < *n; i++)
		read_members(&sets[i], CStringGetTextDatum(sets[i].name));
	SPI_finish();
	CdpRestoreUser(&saved);
	return sets;
}

/*
 * The smallest key of a piece that has not been gone through; false when there
 * is none.
 */
static bool
next_key(const MemberSet *sets, int n, int64 *key)
{
	bool		found = false;

	for (int i = 0; i < n; i++)
	{
		if (sets[i].next == sets[i].npieces)
			continue;
		if (!found || sets[i].pieces[sets[i].next].key < *key)
			*key = sets[i].pieces[sets[i].next].key;
		found = true;
	}
	return found;
}

/*
 * Go on to a set's piece of that key, as a bitmap; NULL when it has none.  An
 * array is spread out in scratch.
 */
static const uint64 *
piece_words(MemberSet *set, int64 key, uint64 *scratch)
{
	Piece	   *piece;

	while (set->next < set->npieces && set->pieces[set->next].key < key)
		set->next++;
	if (set->next == set->npieces || set->pieces[set->next].key > key)
		return NULL;
	piece = &set->pieces[set->next++];
	if (piece->words != NULL)
		return piece->words;
	memset(scratch, 0, PIECE_IDS / 8);
	for (int i = 0; i < piece->n; i++)
		scratch[piece->array[i] / 64] |= UINT64CONST(1) << piece->array[i] % 64;
	return scratch;
}

static int64
count_words(const uint64 *words)
{
	return pg_popcount((const char *) words, PIECE_IDS / 8);
}

PG_FUNCTION_INFO_V1(cdp_segment_overlap);

/*
 * cdp.segment_overlap(names) returns table(a, b, members_a, members_b, members_both)
 */
Datum
cdp_segment_overlap(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			n;
	MemberSet  *sets = read_sets(PG_GETARG_ARRAYTYPE_P(0), &n);
	int64	   *both = palloc0_array(int64, (Size) n * n + 1);
	uint64	   *scratch = palloc_array(uint64, (Size) PIECE_WORDS * n + 1);
	const uint64 **words = palloc_array(const uint64 *, n + 1);
	uint64		meet[PIECE_WORDS];
	int64		key;

	InitMaterializedSRF(fcinfo, 0);
	while (next_key(sets, n, &key))
	{
		for (int i = 0; i < n; i++)
			words[i] = piece_words(&sets[i], key, scratch + (Size) PIECE_WORDS * i);
		for (int i = 0; i < n; i++)
		{
			CHECK_FOR_INTERRUPTS();
			for (int j = i + 1; words[i] != NULL && j < n; j++)
			{
				if (words[j] == NULL)
					continue;
				for (int k = 0; k < PIECE_WORDS; k++)
					meet[k] = words[i][k] & words[j][k];
				both[i * n + j] += count_words(meet);
			}
		}
	}
	for (int i = 0; i < n; i++)
		for (int j = i + 1; j < n; j++)
		{
			Datum		values[5];
			bool		nulls[5] = { false, false, false, false, false };

			values[0] = CStringGetTextDatum(sets[i].name);
			values[1] = CStringGetTextDatum(sets[j].name);
			values[2] = Int64GetDatum(sets[i].n);
			values[3] = Int64GetDatum(sets[j].n);
			values[4] = Int64GetDatum(both[i * n + j]);
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
	return (Datum) 0;
}

/*
 * Who is in all of these, in one of those at least, and in none of the last:
 * ids in ascending order to a tuplestore, or only how many (no tuplestore).
 */
static int64
combine(FunctionCallInfo fcinfo, ReturnSetInfo *rsinfo)
{
	MemberSet  *sets[3];		/* all, any, none */
	int			n[3];
	uint64		scratch[PIECE_WORDS];
	uint64		result[PIECE_WORDS];
	uint64		united[PIECE_WORDS];
	int64		count = 0;
	int64		key;

	for (int i = 0; i < 3; i++)
	{
		n[i] = 0;
		sets[i] = PG_ARGISNULL(i) ? NULL : read_sets(PG_GETARG_ARRAYTYPE_P(i), &n[i]);
	}
	if (n[0] + n[1] == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("no segments are given whose members are asked for"),
				 errhint("Name some in all_of or any_of.")));
	while (n[0] > 0 ? next_key(sets[0], 1, &key) : next_key(sets[1], n[1], &key))
	{
		bool		empty = false;

		CHECK_FOR_INTERRUPTS();
		memset(result, 0xff, sizeof(result));
		for (int i = 0; i < n[0]; i++)
		{
			const uint64 *words = piece_words(&sets[0][i], key, scratch);

			empty |= words == NULL;
			for (int k = 0; words != NULL && k < PIECE_WORDS; k++)
				result[k] &= words[k];
		}
		memset(united, 0, sizeof(united));
		for (int i = 0; i < n[1]; i++)
		{
			const uint64 *words = piece_words(&sets[1][i], key, scratch);

			for (int k = 0; words != NULL && k < PIECE_WORDS; k++)
				united[k] |= words[k];
		}
		for (int k = 0; n[1] > 0 && k < PIECE_WORDS; k++)
			result[k] &= united[k];
		for (int i = 0; i < n[2]; i++)
		{
			const uint64 *words = piece_words(&sets[2][i], key, scratch);

			for (int k = 0; words != NULL && k < PIECE_WORDS; k++)
				result[k] &= ~words[k];
		}
		if (empty)
			continue;
		count += count_words(result);
		for (int k = 0; rsinfo != NULL && k < PIECE_WORDS; k++)
		{
			uint64		word = result[k];

			while (word != 0)
			{
				int			bit = pg_rightmost_one_pos64(word);
				Datum		value = Int64GetDatum(key * PIECE_IDS + k * 64 + bit);
				bool		null = false;

				if (CdpVisibleHook == NULL || CdpVisibleHook(DatumGetInt64(value)))
					tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &null);
				word &= word - 1;
			}
		}
	}
	return count;
}

PG_FUNCTION_INFO_V1(cdp_segments_members);

/*
 * cdp.segment_members(all_of, any_of, none_of) returns setof bigint
 */
Datum
cdp_segments_members(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	(void) combine(fcinfo, (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(cdp_segment_size);

/*
 * cdp.segment_size(all_of, any_of, none_of) returns bigint
 */
Datum
cdp_segment_size(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(combine(fcinfo, NULL));
}
