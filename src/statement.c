/*-------------------------------------------------------------------------
 *
 * statement.c
 *	  Statements that are prepared once per backend and run over arrays, or
 *	  over rows that they read like a table (as triggers read transition tables).
 *
 *	  Plans are kept until the extension is dropped and made again: their
 *	  argument types (cdp.node_state and the like) have other OIDs then.
 *
 * IDENTIFICATION
 *	  src/statement.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "optimizer/planner.h"
#include "parser/parse_type.h"
#include "storage/bufmgr.h"
#include "storage/predicate.h"
#include "storage/shmem.h"
#include "storage/sinval.h"
#include "storage/smgr.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/queryenvironment.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "cdp.h"
#include "compat.h"
#include "statement.h"

/* The name by which statements read the rows that they are given. */
#define GIVEN	"given"

/* What the planner is told of them, so that plans are those for a few rows. */
#define EXPECTED_ROWS	10

bool		CdpStatementsReadOnly = false;
const char CdpBatchMemory[] = "cdp batch";

static CdpStatement *prepared = NULL;
static Oid	prepared_in = InvalidOid;

/* A bit of cursor options that PostgreSQL has no use for: planned again, it is pinned again. */
#define PINNED_PLAN		0x40000000

/* Are plans pinned, and since which subtransaction? */
static bool pinned = false;
static SubTransactionId pinned_in = InvalidSubTransactionId;
static planner_hook_type previous_planner = NULL;

/*
 * Make the rows visible to statements, or their columns only.  What SPI keeps
 * about them is to outlive any context of the caller.
 */
static EphemeralNamedRelation
show_given(CdpStatement *statement, Tuplestorestate *rows)
{
	MemoryContext context = MemoryContextSwitchTo(TopTransactionContext);
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));
	int			rc;

	relation->md.name = GIVEN;
	relation->md.tupdesc = statement->desc;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = EXPECTED_ROWS;
	relation->reldata = rows;
	/* an error that was caught may have left one */
	(void) SPI_unregister_relation(GIVEN);
	rc = SPI_register_relation(relation);
	if (rc < 0)
		elog(ERROR, "SPI_register_relation failed: %s", SPI_result_code_string(rc));
	MemoryContextSwitchTo(context);
	return relation;
}

static void
hide_given(EphemeralNamedRelation relation)
{
	(void) SPI_unregister_relation(GIVEN);
	pfree(relation);
}

static void
describe_given(CdpStatement *statement)
{
	MemoryContext context = MemoryContextSwitchTo(TopMemoryContext);
	TupleDesc	desc;
	int			n = 0;
	int			i;

	if (statement->desc != NULL)
		FreeTupleDesc(statement->desc);
	statement->desc = NULL;
	while (statement->given[n].name != NULL)
		n++;
	desc = CreateTemplateTupleDesc(n);
	for (i = 0; i < n; i++)
	{
		Oid			type;
		int32		typmod;

		CdpParseType(statement->given[i].type, &type, &typmod);
		TupleDescInitEntry(desc, i + 1, statement->given[i].name, type, typmod, 0);
	}
	statement->desc = desc;
	MemoryContextSwitchTo(context);
}

static void
prepare(CdpStatement *statement)
{
	EphemeralNamedRelation relation = NULL;
	Oid			types[CDP_STATEMENT_ARGS];
	int			nargs = 0;
	SPIPlanPtr	plan;

	while (nargs < CDP_STATEMENT_ARGS && statement->types[nargs] != NULL)
	{
		int32		typmod;

		CdpParseType(statement->types[nargs], &types[nargs], &typmod);
		nargs++;
	}

	if (statement->given[0].name != NULL)
	{
		if (statement->desc == NULL)
			describe_given(statement);
		relation = show_given(statement, NULL);
	}
	plan = SPI_prepare_cursor(statement->sql, nargs, types,
							  pinned ? CURSOR_OPT_GENERIC_PLAN | PINNED_PLAN : 0);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare_cursor failed: %s",
			 SPI_result_code_string(SPI_result));
	if (relation != NULL)
		hide_given(relation);
	SPI_keepplan(plan);
	statement->plan = plan;
	statement->generic = pinned;
}

void
CdpPrepare(CdpStatement *statement)
{
	Oid			schema = CdpSchemaOid();

	if (schema != prepared_in)
	{
		while (prepared != NULL)
		{
			CdpStatement *next = prepared->next;

			SPI_freeplan(prepared->plan);
			prepared->plan = NULL;
			if (prepared->desc != NULL)
				FreeTupleDesc(prepared->desc);
			prepared->desc = NULL;
			prepared->next = NULL;
			prepared = next;
		}
		prepared_in = schema;
	}
	if (statement->plan == NULL)
	{
		prepare(statement);
		statement->next = prepared;
		prepared = statement;
	}
	/* made by who had other settings, and may be made anew at each run; it may be running */
	else if (pinned && !statement->generic)
		prepare(statement);
}

/*
 * Has it no page, as far as can be told without its lock?  A batch asks this of
 * more tables than a backend can lock fast.  The file may be exchanged for another
 * one meanwhile (VACUUM FULL), which is cut off only after everybody was told: so
 * what looks void is believed if there was nothing to be told.  Of a table that is
 * truncated and filled in one transaction this may not hold for a moment after its
 * commit; we do that to none of those that are asked for.
 */
static bool
looks_void(Oid relid)
{
	uint64		told;
	bool		result;

	do
	{
		Relation	rel;

		AcceptInvalidationMessages();
		told = SharedInvalidMessageCounter;
		rel = RelationIdGetRelation(relid);
		if (!RelationIsValid(rel))
			return false;
		result = smgrnblocks(RelationGetSmgr(rel), MAIN_FORKNUM) == 0;
		RelationClose(rel);
		AcceptInvalidationMessages();
	} while (result && told != SharedInvalidMessageCounter);
	return result;
}

bool
CdpTableIsVoid(const char *table)
{
	Oid			relid = CdpRelationOid(table);
	Relation	rel;
	bool		result;

	/* a standby removes a file as soon as it has told of it */
	if (!IsolationIsSerializable() && !RecoveryInProgress())
		return looks_void(relid);

	rel = table_open(relid, AccessShareLock);
	result = RelationGetNumberOfBlocks(rel) == 0;
	/* who adds a row is noticed from here on; somebody may have just before */
	if (result && IsolationIsSerializable())
	{
		PredicateLockRelation(rel, GetTransactionSnapshot());
		result = RelationGetNumberOfBlocks(rel) == 0;
	}
	table_close(rel, NoLock);
	return result;
}

uint64
CdpRun(CdpStatement *statement, Datum *args, const char *nulls)
{
	MemoryContext context = CurrentMemoryContext;
	int			rc;

	if (statement->table != NULL && CdpTableIsVoid(statement->table))
	{
		SPI_processed = 0;
		SPI_tuptable = NULL;
		return 0;
	}
	CdpPrepare(statement);
	rc = SPI_execute_plan(statement->plan, args, nulls,
						  CdpStatementsReadOnly, 0);
	if (rc < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(rc));
	/* SPI's own memory is given back when the batch ends, that of batches is kept */
	if (context->ident == CdpBatchMemory)
		MemoryContextSwitchTo(context);
	return SPI_processed;
}

/*
 * SPI leaves its own memory context behind, which lives until SPI_finish.
 */
uint64
CdpRunHere(CdpStatement *statement, Datum *args, const char *nulls)
{
	MemoryContext context = CurrentMemoryContext;
	uint64		n = CdpRun(statement, args, nulls);

	MemoryContextSwitchTo(context);
	return n;
}

/*
 * SPI_cursor_fetch does so, too.
 */
uint64
CdpFetchHere(Portal portal, long count)
{
	MemoryContext context = CurrentMemoryContext;

	SPI_cursor_fetch(portal, true, count);
	MemoryContextSwitchTo(context);
	return SPI_processed;
}

CdpGiven *
CdpGive(CdpStatement *statement)
{
	CdpGiven   *given = palloc(sizeof(CdpGiven));

	given->n = 0;
	given->statement = statement;
	given->rows = NULL;
	return given;
}

void
CdpGiveRow(CdpGiven *given, Datum *values, bool *isnull)
{
	if (given->rows == NULL)
	{
		CdpPrepare(given->statement);
		/* in memory, however many they are */
		given->rows = tuplestore_begin_heap(false, false, MAX_KILOBYTES);
	}
	tuplestore_putvalues(given->rows, given->statement->desc, values, isnull);
	given->n++;
}

uint64
CdpRunGiven(CdpGiven *given, Datum *args, const char *nulls)
{
	EphemeralNamedRelation relation;
	uint64		n;

	if (given->n == 0)
		return 0;
	relation = show_given(given->statement, given->rows);
	n = CdpRun(given->statement, args, nulls);
	hide_given(relation);
	tuplestore_end(given->rows);
	return n;
}

static void
pin(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Plan under the settings below where plans are pinned.  They matter to the planner
 * alone, and statements are planned once: a batch need not set and reset them.
 */
static PlannedStmt *
plan_pinned(Query *parse, const char *query_string, int cursor_options,
			ParamListInfo params)
{
	planner_hook_type plan = previous_planner != NULL ? previous_planner : standard_planner;
	PlannedStmt *result;
	int			nest;

	if (!pinned && (cursor_options & PINNED_PLAN) == 0)
		return plan(parse, query_string, cursor_options, params);

	nest = NewGUCNestLevel();

	/*
	 * Only rows cost anything, so that rows looked up one by one for the
	 * array's elements are cheaper than all rows of a table that the planner
	 * believes to be small.  And index entries a little, so that one index is
	 * not searched from end to end by its second column where another has it
	 * as the first.
	 */
	pin("seq_page_cost", "0");
	pin("random_page_cost", "0");
	pin("cpu_index_tuple_cost", "0.01");
	pin("cpu_operator_cost", "0");
	pin("cpu_tuple_cost", "1");
	pin("enable_hashjoin", "off");
	pin("enable_mergejoin", "off");
	pin("enable_seqscan", "off");
	pin("enable_bitmapscan", "off");
	pin("enable_material", "off");
	pin("enable_memoize", "off");
	pin("jit", "off");
	pin("max_parallel_workers_per_gather", "0");
	result = plan(parse, query_string, cursor_options, params);
	AtEOXact_GUC(false, nest);
	return result;
}

/*
 * Plans are pinned no longer than what pinned them lives: an error is the end of it.
 */
static void
unpin_at_end(XactEvent event, void *arg)
{
	pinned = false;
}

static void
unpin_at_subabort(SubXactEvent event, SubTransactionId mine,
				  SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && mine == pinned_in)
		pinned = false;
}

bool
CdpPinPlans(void)
{
	static bool registered = false;
	bool		before = pinned;

	if (!registered)
	{
		RegisterXactCallback(unpin_at_end, NULL);
		RegisterSubXactCallback(unpin_at_subabort, NULL);
		registered = true;
	}
	if (!before)
		pinned_in = GetCurrentSubTransactionId();
	pinned = true;
	return before;
}

bool
CdpPlansPinned(void)
{
	return pinned;
}

void
CdpUnpinPlans(bool before)
{
	pinned = before;
}

void
CdpStatementInit(void)
{
	previous_planner = planner_hook;
	planner_hook = plan_pinned;
}

static Datum
fixed_array(const void *values, int n, Oid elemtype, int elemlen)
{
	Size		size = add_size(ARR_OVERHEAD_NONULLS(1), mul_size(n, elemlen));
	ArrayType  *array;

	if (n == 0)
		return PointerGetDatum(construct_empty_array(elemtype));
	if (!AllocSizeIsValid(size))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("array of %d elements is too large", n)));
	array = palloc(size);
	SET_VARSIZE(array, size);
	array->ndim = 1;
	array->dataoffset = 0;
	array->elemtype = elemtype;
	ARR_DIMS(array)[0] = n;
	ARR_LBOUND(array)[0] = 1;
	memcpy(ARR_DATA_PTR(array), values, (Size) n * elemlen);
	return PointerGetDatum(array);
}

Datum
CdpInt8Array(const int64 *values, int n)
{
	return fixed_array(values, n, INT8OID, sizeof(int64));
}

int
CdpCompareInt8(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	return x < y ? -1 : x > y ? 1 : 0;
}

Datum
CdpInt4Array(const int32 *values, int n)
{
	return fixed_array(values, n, INT4OID, sizeof(int32));
}

Datum
CdpTimestampArray(const TimestampTz *values, int n)
{
	return fixed_array(values, n, TIMESTAMPTZOID, sizeof(TimestampTz));
}

Datum
CdpBoolArray(const bool *values, int n)
{
	return fixed_array(values, n, BOOLOID, sizeof(bool));
}

Datum
CdpVarlenaArray(Datum *values, bool *isnull, int n, Oid elemtype)
{
	int16		typlen;
	bool		typbyval;
	char		typalign;
	int			dims[1];
	int			lbs[1] = {1};

	if (n == 0)
		return PointerGetDatum(construct_empty_array(elemtype));
	get_typlenbyvalalign(elemtype, &typlen, &typbyval, &typalign);
	dims[0] = n;
	return PointerGetDatum(construct_md_array(values, isnull, 1, dims, lbs,
											  elemtype, typlen, typbyval,
											  typalign));
}

Datum
CdpCell(uint64 i, int col, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, col,
						 isnull);
}

int64
CdpCellInt8(uint64 i, int col)
{
	bool		isnull;
	Datum		value = CdpCell(i, col, &isnull);

	if (isnull)
		elog(ERROR, "unexpected null in column %d", col);
	return DatumGetInt64(value);
}

struct varlena *
CdpCellVarlena(uint64 i, int col, MemoryContext context)
{
	bool		isnull;
	Datum		value = CdpCell(i, col, &isnull);
	MemoryContext old;
	struct varlena *copy;

	if (isnull)
		return NULL;
	old = MemoryContextSwitchTo(context);
	copy = PG_DETOAST_DATUM_COPY(value);
	MemoryContextSwitchTo(old);
	return copy;
}
