/*-------------------------------------------------------------------------
 *
 * proof.c
 *	  Is a value anywhere in the files of a relation?
 *
 *	  Every page is read through the buffers and searched twice: as bytes, so
 *	  that indexes, TOAST and what is left of dead rows are seen whatever their
 *	  form; and, of tables, row by row with every value detoasted, since bytes
 *	  that are compressed do not show what they say.  Bytes are compared without
 *	  regard to case in ASCII.
 *
 * IDENTIFICATION
 *	  src/trust/proof.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

PG_FUNCTION_INFO_V1(cdp_erasure_scan);
PG_FUNCTION_INFO_V1(cdp_clear_free_space);

typedef struct ProofScan
{
	int			n;
	char	  **values;			/* in lower case */
	int		   *lengths;
	ReturnSetInfo *result;
} ProofScan;

static inline char
small(char c)
{
	return c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
}

/*
 * Where the value begins in these bytes; -1: nowhere.
 */
static int
find_bytes(const char *bytes, int len, const char *value, int vlen)
{
	for (int i = 0; i + vlen <= len; i++)
	{
		int			k = 0;

		while (k < vlen && small(bytes[i + k]) == value[k])
			k++;
		if (k == vlen)
			return i;
	}
	return -1;
}

static void
report(ProofScan *scan, int value, BlockNumber block, const char *place)
{
	Datum		values[3];
	bool		nulls[3] = {false, false, false};

	values[0] = Int32GetDatum(value + 1);
	values[1] = Int64GetDatum(block);
	values[2] = CStringGetTextDatum(place);
	tuplestore_putvalues(scan->result->setResult, scan->result->setDesc, values, nulls);
}

/*
 * The page as bytes.  What lies between its used parts is free space, in which
 * old contents may be left.
 */
static void
search_page(ProofScan *scan, Page page, BlockNumber block)
{
	PageHeader	header = (PageHeader) page;

	for (int v = 0; v < scan->n; v++)
	{
		int			at = 0;
		bool		used = false;
		bool		freed = false;

		for (;;)
		{
			int			found = find_bytes(page + at, BLCKSZ - at, scan->values[v],
										   scan->lengths[v]);

			if (found < 0)
				break;
			at += found;
			if (!PageIsNew(page) && at >= header->pd_lower && at < header->pd_upper)
				freed = true;
			else
				used = true;
			at++;
		}
		if (used)
			report(scan, v, block, "page");
		if (freed)
			report(scan, v, block, "free space");
	}
}

static void
search_pages(ProofScan *scan, Relation rel)
{
	BlockNumber	nblocks = RelationGetNumberOfBlocks(rel);
	BufferAccessStrategy strategy = GetAccessStrategy(BAS_BULKREAD);
	PGAlignedBlock copy;

	for (BlockNumber block = 0; block < nblocks; block++)
	{
		Buffer		buffer;

		CHECK_FOR_INTERRUPTS();
		buffer = ReadBufferExtended(rel, MAIN_FORKNUM, block, RBM_NORMAL, strategy);
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		memcpy(copy.data, BufferGetPage(buffer), BLCKSZ);
		UnlockReleaseBuffer(buffer);
		search_page(scan, (Page) copy.data, block);
	}
	FreeAccessStrategy(strategy);
}

/*
 * The rows that are to be seen, with all values as they are meant.
 */
static void
search_rows(ProofScan *scan, Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	TableScanDesc heap = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	MemoryContext chunk = AllocSetContextCreate(CurrentMemoryContext, "cdp proof",
												ALLOCSET_DEFAULT_SIZES);

	while (table_scan_getnextslot(heap, ForwardScanDirection, slot))
	{
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(slot);
		old = MemoryContextSwitchTo(chunk);
		for (int a = 0; a < desc->natts; a++)
		{
			Form_pg_attribute attr = TupleDescAttr(desc, a);
			struct varlena *value;

			if (slot->tts_isnull[a] || attr->attisdropped || attr->attlen != -1)
				continue;
			value = pg_detoast_datum((struct varlena *) DatumGetPointer(slot->tts_values[a]));
			for (int v = 0; v < scan->n; v++)
			{
				MemoryContext inner;

				if (find_bytes(VARDATA(value), VARSIZE(value) - VARHDRSZ, scan->values[v],
							   scan->lengths[v]) < 0)
					continue;
				inner = MemoryContextSwitchTo(old);
				report(scan, v, ItemPointerGetBlockNumber(&slot->tts_tid),
					   psprintf("row, column %s", NameStr(attr->attname)));
				MemoryContextSwitchTo(inner);
			}
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(chunk);
	}
	MemoryContextDelete(chunk);
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(heap);
}

/*
 * cdp.erasure_scan(relation regclass, needles text[], OUT needle int, OUT block
 * bigint, OUT place text) returns SETOF record: where these texts stand in a
 * table, index or TOAST table.
 */
Datum
cdp_erasure_scan(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	ArrayType  *needles = PG_GETARG_ARRAYTYPE_P(1);
	ProofScan		scan = {.result = (ReturnSetInfo *) fcinfo->resultinfo};
	Relation	rel;
	Datum	   *elems;
	bool	   *nulls;
	char		relkind;

	InitMaterializedSRF(fcinfo, 0);
	deconstruct_array(needles, TEXTOID, -1, false, TYPALIGN_INT, &elems, &nulls, &scan.n);
	scan.values = palloc(sizeof(char *) * Max(scan.n, 1));
	scan.lengths = palloc(sizeof(int) * Max(scan.n, 1));
	for (int v = 0; v < scan.n; v++)
	{
		scan.values[v] = nulls[v] ? pstrdup("") : TextDatumGetCString(elems[v]);
		scan.lengths[v] = strlen(scan.values[v]);
		if (scan.lengths[v] == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a value to be looked for must not be empty")));
		for (int i = 0; i < scan.lengths[v]; i++)
			scan.values[v][i] = small(scan.values[v][i]);
	}
	rel = relation_open(relid, AccessShareLock);
	relkind = rel->rd_rel->relkind;
	if (RELKIND_HAS_STORAGE(relkind) && relkind != RELKIND_SEQUENCE)
		search_pages(&scan, rel);
	if (relkind == RELKIND_RELATION)
		search_rows(&scan, rel);
	relation_close(rel, AccessShareLock);
	return (Datum) 0;
}

/*
 * cdp.clear_free_space(relation regclass) returns bigint: overwrite what VACUUM
 * has left in the free space of pages; how many pages had something there.  The
 * space between the used parts of a page has no meaning and is in no WAL record,
 * so nothing else is to be done about it.
 */
Datum
cdp_clear_free_space(PG_FUNCTION_ARGS)
{
	Relation	rel = relation_open(PG_GETARG_OID(0), AccessShareLock);
	BufferAccessStrategy strategy = GetAccessStrategy(BAS_BULKREAD);
	BlockNumber	nblocks = 0;
	int64		cleared = 0;

	if (RELKIND_HAS_STORAGE(rel->rd_rel->relkind) && rel->rd_rel->relkind != RELKIND_SEQUENCE)
		nblocks = RelationGetNumberOfBlocks(rel);
	for (BlockNumber block = 0; block < nblocks; block++)
	{
		Buffer		buffer;
		Page		page;
		PageHeader	header;
		bool		dirty = false;

		CHECK_FOR_INTERRUPTS();
		buffer = ReadBufferExtended(rel, MAIN_FORKNUM, block, RBM_NORMAL, strategy);
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		page = BufferGetPage(buffer);
		header = (PageHeader) page;
		if (!PageIsNew(page) && header->pd_lower >= SizeOfPageHeaderData &&
			header->pd_lower <= header->pd_upper && header->pd_upper <= BLCKSZ)
			for (int i = header->pd_lower; i < header->pd_upper && !dirty; i++)
				dirty = page[i] != 0;
		if (dirty)
		{
			memset(page + header->pd_lower, 0, header->pd_upper - header->pd_lower);
			MarkBufferDirtyHint(buffer, true);
			cleared++;
		}
		UnlockReleaseBuffer(buffer);
	}
	FreeAccessStrategy(strategy);
	relation_close(rel, AccessShareLock);
	PG_RETURN_INT64(cleared);
}
