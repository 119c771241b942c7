/*-------------------------------------------------------------------------
 *
 * handler.c
 *	  The access method identity_graph as the server sees it: what it can do,
 *	  what it costs, its options, and the check of its operator classes.
 *
 * IDENTIFICATION
 *	  src/identity/index/handler.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/amvalidate.h"
#include "access/htup_details.h"
#include "access/reloptions.h"
#include "catalog/pg_am.h"
#include "catalog/pg_amop.h"
#include "catalog/pg_opclass.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_type.h"
#include "commands/progress.h"
#include "commands/vacuum.h"
#include "fmgr.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/selfuncs.h"
#include "utils/syscache.h"

#include "identity/index/graph_index.h"

PG_FUNCTION_INFO_V1(cdp_identity_graph_handler);

static relopt_kind relopt = 0;

/*
 * Reading a bucket is one page, whatever the size of the index; the rows are
 * the heap's.  A scan without a key reads everything and sorts it: never
 * cheaper than anything else, not even than what enable_seqscan = off costs.
 * Not infinite, for the planner subtracts costs.
 */
static void
cdpgcostestimate(PlannerInfo *root, IndexPath *path, double loop_count,
				 Cost *startup, Cost *total, Selectivity *selectivity,
				 double *correlation, double *pages)
{
	GenericCosts costs;

	if (path->indexclauses == NIL)
	{
		*startup = *total = 1e20;
		*selectivity = 1;
		*correlation = 0;
		*pages = path->indexinfo->pages;
		return;
	}
	memset(&costs, 0, sizeof(costs));
	genericcostestimate(root, path, loop_count, &costs);

	/*
	 * All entries of the node are read, also those of its rows that have it at
	 * the other end, or another node there, and statistics do not tell how
	 * many that are.  So take every node for the smallest hub: a btree on what
	 * is looked for is better where there is one.
	 */
	costs.indexTotalCost += CDPG_HUB_SIZE * cpu_index_tuple_cost * Max(costs.num_sa_scans, 1);
	*startup = costs.indexStartupCost;
	*total = costs.indexTotalCost;
	*selectivity = costs.indexSelectivity;
	*correlation = 0;
	*pages = costs.numIndexPages;
}

static bytea *
cdpgoptions(Datum reloptions, bool validate)
{
	static const relopt_parse_elt table[] = {
		{"fillfactor", RELOPT_TYPE_INT, offsetof(CdpgOptions, fillfactor)}
	};

	if (relopt == 0)
	{
		relopt = add_reloption_kind();
		add_int_reloption(relopt, "fillfactor",
						  "How full CREATE INDEX makes the pages of an identity_graph index, in percent",
						  CDPG_FILLFACTOR, 10, 100, AccessExclusiveLock);
	}
	return (bytea *) build_reloptions(reloptions, validate, relopt,
									  sizeof(CdpgOptions), table, lengthof(table));
}

static char *
cdpgbuildphasename(int64 phase)
{
	return phase == PROGRESS_CREATEIDX_SUBPHASE_INITIALIZE ? "reading, sorting and writing edges" : NULL;
}

/*
 * An operator class has one operator, equality of bigint with an integer of
 * any size, and no support functions.
 */
static bool
cdpgvalidate(Oid opclassoid)
{
	bool		result = true;
	HeapTuple	classtup;
	Form_pg_opclass classform;
	char	   *classname;
	Oid			family;
	CatCList   *oprlist;
	CatCList   *proclist;
	bool		own = false;
	int			i;

	classtup = SearchSysCache1(CLAOID, ObjectIdGetDatum(opclassoid));
	if (!HeapTupleIsValid(classtup))
		elog(ERROR, "cache lookup failed for operator class %u", opclassoid);
	classform = (Form_pg_opclass) GETSTRUCT(classtup);
	classname = pstrdup(NameStr(classform->opcname));
	family = classform->opcfamily;
	if (classform->opcintype != INT8OID)
	{
		ereport(INFO,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("identity_graph operator class \"%s\" is for type %s, not bigint",
						classname, format_type_be(classform->opcintype))));
		result = false;
	}
	if (OidIsValid(classform->opckeytype) && classform->opckeytype != INT8OID)
	{
		ereport(INFO,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("identity_graph operator class \"%s\" has another storage type",
						classname)));
		result = false;
	}

	oprlist = SearchSysCacheList1(AMOPSTRATEGY, ObjectIdGetDatum(family));
	for (i = 0; i < oprlist->n_members; i++)
	{
		Form_pg_amop op = (Form_pg_amop) GETSTRUCT(&oprlist->members[i]->tuple);

		if (op->amopstrategy != 1 || op->amoppurpose != AMOP_SEARCH ||
			op->amoplefttype != INT8OID ||
			(op->amoprighttype != INT8OID && op->amoprighttype != INT4OID &&
			 op->amoprighttype != INT2OID) ||
			!check_amop_signature(op->amopopr, BOOLOID, op->amoplefttype, op->amoprighttype) ||
			!op_hashjoinable(op->amopopr, op->amoplefttype))
		{
			ereport(INFO,
					(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
					 errmsg("identity_graph operator family of \"%s\" contains an invalid operator %s",
							classname, format_operator(op->amopopr))));
			result = false;
		}
		else if (op->amoprighttype == INT8OID)
			own = true;
	}
	ReleaseCatCacheList(oprlist);
	if (!own)
	{
		ereport(INFO,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("identity_graph operator class \"%s\" is missing its operator",
						classname)));
		result = false;
	}

	proclist = SearchSysCacheList1(AMPROCNUM, ObjectIdGetDatum(family));
	if (proclist->n_members > 0)
	{
		ereport(INFO,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("identity_graph operator family of \"%s\" has support functions",
						classname)));
		result = false;
	}
	ReleaseCatCacheList(proclist);
	ReleaseSysCache(classtup);
	return result;
}

/*
 * cdp.identity_graph_handler(internal) returns index_am_handler
 */
Datum
cdp_identity_graph_handler(PG_FUNCTION_ARGS)
{
	IndexAmRoutine *am = makeNode(IndexAmRoutine);

	am->amstrategies = 1;
	am->amsupport = 0;
	am->amoptsprocnum = 0;
	am->amcanorder = false;
	am->amcanorderbyop = false;
	am->amcanbackward = false;
	am->amcanunique = false;
	am->amcanmulticol = true;
	am->amoptionalkey = true;	/* b = x alone is served as well as a = x */
	am->amsearcharray = false;
	am->amsearchnulls = false;
	am->amstorage = false;
	am->amclusterable = false;
	am->ampredlocks = true;
	am->amcanparallel = false;
	am->amcaninclude = false;
	am->amusemaintenanceworkmem = false;
	am->amparallelvacuumoptions = VACUUM_OPTION_PARALLEL_BULKDEL;
	am->amkeytype = InvalidOid;

	am->ambuild = cdpgbuild;
	am->ambuildempty = cdpgbuildempty;
	am->aminsert = cdpginsert;
	am->ambulkdelete = cdpgbulkdelete;
	am->amvacuumcleanup = cdpgvacuumcleanup;

	/*
	 * No index-only scans: the executor looks at the visibility map after the
	 * bucket's lock is gone, when the row may have been replaced.
	 */
	am->amcanreturn = NULL;
	am->amcostestimate = cdpgcostestimate;
	am->amoptions = cdpgoptions;
	am->amproperty = NULL;
	am->ambuildphasename = cdpgbuildphasename;
	am->amvalidate = cdpgvalidate;
	am->amadjustmembers = NULL;
	am->ambeginscan = cdpgbeginscan;
	am->amrescan = cdpgrescan;
	am->amgettuple = cdpggettuple;
	am->amgetbitmap = cdpggetbitmap;
	am->amendscan = cdpgendscan;
	am->ammarkpos = NULL;
	am->amrestrpos = NULL;
	am->amestimateparallelscan = NULL;
	am->aminitparallelscan = NULL;
	am->amparallelrescan = NULL;

	PG_RETURN_POINTER(am);
}

/*
 * Whether an index is one of ours.
 */
bool
CdpIsGraphIndex(Relation index)
{
	return index->rd_rel->relkind == RELKIND_INDEX &&
		index->rd_indam != NULL && index->rd_indam->ambuild == cdpgbuild;
}
