/*-------------------------------------------------------------------------
 *
 * load.c
 *	  The rows that a large table had when it was attached: logged a step at a
 *	  time, each in a transaction of its own.
 *
 *	  A step reads some blocks of the table, of one partition after the other,
 *	  while nobody writes to that partition; the position commits with the
 *	  entries.  What is written to the table meanwhile the triggers see, which
 *	  are there since it was attached: so a row that has not been changed is
 *	  where it was, and one that has been is in the log.  A row that is read a
 *	  second time says what it said, and is nothing.  Hence a position that
 *	  means nothing any more, as after VACUUM FULL or a restore, is no harm:
 *	  the file, or everything, is read from its beginning.
 *
 *	  A relation that is polled by a cursor is read in the cursor's order, other
 *	  tables that are polled like those with triggers, but without locks: the
 *	  last step compares all rows.
 *
 *	  A row of cdp.attachment_loads is a load that is not at its end.
 *
 * IDENTIFICATION
 *	  src/collect/load.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/timestamp.h"

#include "collect/attach.h"
#include "compat.h"
#include "statement.h"

PG_FUNCTION_INFO_V1(cdp_load_attachment);

/* Rows of a block when the statistics do not tell. */
#define USUAL_DENSITY 50

static CdpStatement begin_load = {
	"INSERT INTO cdp.attachment_loads (attachment, incarnation, total_blocks, requested_by)"
	" SELECT $1, i.id, $2, $3 FROM cdp.incarnation i",
	{ "int4", "int8", "text" }
};

static CdpStatement end_load = {
	"DELETE FROM cdp.attachment_loads WHERE attachment = $1",
	{ "int4" }
};

/* a place in another life of the database is none in this one */
static CdpStatement read_load = {
	"SELECT CASE WHEN i.id = l.incarnation THEN l.leaf::oid ELSE 0 END, l.file, l.block"
	" FROM cdp.attachment_loads l, cdp.incarnation i WHERE l.attachment = $1",
	{ "int4" }
};

static CdpStatement move_load = {
	"UPDATE cdp.attachment_loads l SET leaf = $2, file = $3, block = $4,"
	" done = l.done + $5, blocks = l.blocks + $6, incarnation = i.id,"
	" started_at = COALESCE(l.started_at, clock_timestamp())"
	" FROM cdp.incarnation i WHERE l.attachment = $1",
	{ "int4", "int8", "int8", "int8", "int8", "int8" }
};

typedef struct Position
{
	Oid leaf; /* table or partition ... */
	int64 file; /* ... its file ... */
	int64 block; /* ... and the next block of it */
	int64 blocks; /* that this step has read */
} Position;

/*
 * The tables that have the rows of a relation, in order of their numbers.
 */
static List *
leaves_of(Oid relid)
{
	List *leaves = NIL;
	ListCell *cell;

	foreach(cell, find_all_inheritors(relid, AccessShareLock, NULL))
		if (get_rel_relkind(lfirst_oid(cell)) != RELKIND_PARTITIONED_TABLE)
			leaves = lappend_oid(leaves, lfirst_oid(cell));
	list_sort(leaves, list_oid_cmp);
	return leaves;
}

/*
 * Are there more rows than the transaction that attaches should log?
 */
bool
CdpLoadIsLarge(CdpAttachment *attachment)
{
	CdpUserContext saved;

	CdpBecomeRole(attachment->role, &saved);
	if (SPI_execute(psprintf("SELECT count(*) FROM (SELECT FROM %s LIMIT " INT64_FORMAT ") AS r",
							 attachment->relation, (int64) cdp_backfill_at_once + 1),
					true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not count rows");
	CdpRestoreUser(&saved);
	return CdpCellInt8(0, 1) > cdp_backfill_at_once;
}

void
CdpLoadBegin(CdpAttachment *attachment, Oid relid)
{
	CdpUserContext saved;
	Datum args[3];
	int64 blocks = 0;
	ListCell *cell;

	if (attachment->mapping->cursor == NULL)
		foreach(cell, leaves_of(relid))
		{
			Relation leaf = relation_open(lfirst_oid(cell), AccessShareLock);

			if (RELKIND_HAS_STORAGE(leaf->rd_rel->relkind))
				blocks += RelationGetNumberOfBlocks(leaf);
			relation_close(leaf, NoLock);
		}
	args[0] = Int32GetDatum(attachment->id);
	args[1] = Int64GetDatum(blocks);
	args[2] = CStringGetTextDatum(GetUserNameFromId(GetUserId(), false));
	CdpBecomeOwner(&saved);
	CdpRun(&begin_load, args, blocks > 0 ? NULL : " n ");
	CdpRestoreUser(&saved);
	CdpWakeAtCommit();
	ereport(NOTICE,
			(errmsg("the rows that \"%s\" has are logged by the worker", attachment->name),
			 errhint("See cdp.progress; cdp.wait_backfill() waits for it.")));
}

void
CdpLoadEnd(CdpAttachment *attachment)
{
	CdpUserContext saved;
	Datum arg = Int32GetDatum(attachment->id);

	CdpBecomeOwner(&saved);
	CdpRun(&end_load, &arg, NULL);
	CdpRestoreUser(&saved);
}

/*
 * The columns of the relation, as a partition or child has them, too: it may
 * have them in another order, and others.
 */
static char *
columns_of(Oid relid)
{
	Relation rel = relation_open(relid, AccessShareLock);
	TupleDesc desc = RelationGetDescr(rel);
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		if (!column->attisdropped)
			appendStringInfo(&buf, "%sk.%s", buf.len > 0 ? ", " : "",
							 quote_identifier(NameStr(column->attname)));
	}
	relation_close(rel, NoLock);
	return buf.data;
}

/*
 * The next blocks of about so many rows as a FROM item; NULL when all have been
 * read.  Where triggers see what changes, nobody writes to them until the
 * transaction ends.
 */
static char *
next_blocks(CdpOpenAttachment *open, Position *position, int rows)
{
	ListCell *cell;

	foreach(cell, leaves_of(open->relid))
	{
		Oid relid = lfirst_oid(cell);
		Relation leaf;
		int64 file;
		int64 nblocks;
		int64 count;
		double density;
		char *name;
		char *from = NULL;

		if (relid < position->leaf)
			continue;
		/* of what is polled the last step finds what has happened meanwhile */
		CdpLockBeside(relid, open->triggers ? ShareLock : AccessShareLock);
		leaf = try_relation_open(relid, NoLock);
		if (leaf == NULL)
			continue;
		name = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(leaf)),
										  RelationGetRelationName(leaf));
		if (!RELKIND_HAS_STORAGE(leaf->rd_rel->relkind))
		{
			/* a foreign table has no blocks: all at once */
			file = 0;
			nblocks = count = 1;
		}
		else
		{
			file = leaf->rd_rel->relfilenode;
			nblocks = RelationGetNumberOfBlocks(leaf);
			density = leaf->rd_rel->reltuples > 0 && leaf->rd_rel->relpages > 0 ?
				leaf->rd_rel->reltuples / leaf->rd_rel->relpages :
				USUAL_DENSITY;
			count = Max((int64) (rows / density), 1);
		}
		if (relid != position->leaf || file != position->file)
		{
			position->leaf = relid;
			position->file = file;
			position->block = 0;
		}
		if (position->block < nblocks)
		{
			from = psprintf("SELECT %s FROM %s%s AS k", columns_of(open->relid), file == 0 ? "" : "ONLY ", name);
			if (file != 0)
				from = psprintf("%s WHERE k.ctid >= '(" INT64_FORMAT ",0)' AND k.ctid < '(" INT64_FORMAT ",0)'",
								from, position->block, Min(position->block + count, nblocks));
			from = psprintf("(%s) AS r", from);
			position->blocks = Min(count, nblocks - position->block);
			position->block += position->blocks;
		}
		relation_close(leaf, NoLock);
		if (from != NULL)
			return from;
		/* locks of several partitions would get in the way of who writes to several */
		UnlockRelationOid(relid, open->triggers ? ShareLock : AccessShareLock);
		CHECK_FOR_INTERRUPTS();
	}
	return NULL;
}

/*
 * The next rows by the cursor of the mapping; NULL when all have been read
 * that have one.  Rows without it come first, with those that have.
 */
static char *
next_by_cursor(CdpOpenAttachment *open, int rows)
{
	const char *cursor = open->attachment->mapping->cursor;
	const char *relation = open->attachment->relation;
	CdpUserContext saved;
	TimestampTz upto;
	bool isnull;
	char *after = NULL;
	char *finite;
	char *until;

	if (open->started)
		after = psprintf("%s::timestamptz > %s::timestamptz", cursor,
						 quote_literal_cstr(timestamptz_to_str(open->position)));
	/* what is in the future is for the last step, too */
	finite = psprintf("isfinite(%s::timestamptz) AND %s::timestamptz <= %s::timestamptz", cursor, cursor,
					  quote_literal_cstr(timestamptz_to_str(CdpClock())));
	CdpBecomeRole(open->attachment->role, &saved);
	if (SPI_execute(psprintf("SELECT max(s.c) FROM (SELECT %s::timestamptz AS c FROM %s AS r WHERE %s"
							 " ORDER BY 1 LIMIT %d) AS s",
							 cursor, relation,
							 after ? psprintf("%s AND %s", after, finite) : finite, rows),
					false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not follow the cursor");
	upto = DatumGetTimestampTz(CdpCell(0, 1, &isnull));
	CdpRestoreUser(&saved);
	if (isnull)
		return NULL;
	until = psprintf("%s::timestamptz <= %s::timestamptz", cursor,
					 quote_literal_cstr(timestamptz_to_str(upto)));
	CdpAttachmentMove(open, upto);
	return psprintf("(SELECT r.* FROM %s AS r WHERE %s) AS r", relation,
					after ? psprintf("%s AND %s", after, until) :
							psprintf("(%s OR %s IS NULL)", until, cursor));
}

/*
 * Does the role see rows of the relation that it does not, or not all, or not
 * all of whose columns, by reading the tables that have them?  Of the relation
 * itself the steps read all columns, too.
 */
static bool
hides_rows(CdpOpenAttachment *open)
{
	Oid role = open->attachment->role;
	List *leaves = open->attachment->mapping->cursor ? list_make1_oid(open->relid) : leaves_of(open->relid);
	ListCell *cell;

	foreach(cell, leaves)
	{
		Oid relid = lfirst_oid(cell);

		if (pg_class_aclcheck(relid, role, ACL_SELECT) != ACLCHECK_OK)
			return true;
		if (relid != open->relid &&
			(check_enable_rls(relid, role, true) == RLS_ENABLED ||
			 check_enable_rls(open->relid, role, true) == RLS_ENABLED))
			return true;
	}
	return false;
}

/*
 * One step: about so many rows; true when nothing is left.
 */
static bool
load_step(CdpCapture *capture, CdpAttachment *attachment, int rows)
{
	CdpOpenAttachment open;
	CdpUserContext saved;
	Position position = { 0 };
	Datum args[6];
	bool isnull;
	char *from;
	const char *key = attachment->mapping->key;

	CdpAttachmentOpen(&open, attachment);
	args[0] = Int32GetDatum(attachment->id);
	CdpBecomeOwner(&saved);
	if (CdpRun(&read_load, args, NULL) == 0)
	{
		CdpRestoreUser(&saved);
		return true;
	}
	position.leaf = DatumGetObjectId(CdpCell(0, 1, &isnull));
	position.file = CdpCellInt8(0, 2);
	position.block = CdpCellInt8(0, 3);
	CdpRestoreUser(&saved);

	if (!open.complete || hides_rows(&open))
	{
		/* another table has taken its place, or parts cannot be read: a comparison */
		CdpAttachmentSync(capture, &open);
		return true;
	}
	from = attachment->mapping->cursor ? next_by_cursor(&open, rows) : next_blocks(&open, &position, rows);
	if (from == NULL && !open.triggers)
	{
		/* whose cursor is none, infinite or in the future; what has changed since it was read */
		CdpAttachmentSync(capture, &open);
		return true;
	}
	if (from == NULL)
	{
		CdpLoadEnd(attachment);
		return true;
	}
	if (key == NULL)
		key = CdpMappingPrimaryKey(open.relid, false);
	CdpCaptureBegin(capture, attachment);
	capture->latest = IsolationUsesXactSnapshot();
	capture->once = true;
	CdpCaptureRows(capture, open.relid, key, from, NULL);
	CdpCaptureWrite(capture, false);

	args[1] = Int64GetDatum(position.leaf);
	args[2] = Int64GetDatum(position.file);
	args[3] = Int64GetDatum(position.block);
	args[4] = Int64GetDatum(capture->nrows + capture->rejected);
	args[5] = Int64GetDatum(position.blocks);
	CdpCaptureEnd(capture);
	CdpBecomeOwner(&saved);
	CdpRun(&move_load, args, NULL);
	CdpRestoreUser(&saved);
	return false;
}

/*
 * cdp.load_attachment(name text, rows int)
 *		returns record (logged bigint, finished boolean)
 */
Datum
cdp_load_attachment(PG_FUNCTION_ARGS)
{
	TupleDesc desc;
	CdpCapture capture = { 0 };
	Datum values[2];
	bool nulls[2] = { 0 };
	int rows = PG_GETARG_INT32(1);

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (rows < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("rows must be at least 1")));
	SPI_connect();
	values[1] = BoolGetDatum(load_step(&capture,
									   CdpAttachmentGet(text_to_cstring(PG_GETARG_TEXT_PP(0)), false),
									   rows));
	SPI_finish();
	values[0] = Int64GetDatum(capture.logged);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
