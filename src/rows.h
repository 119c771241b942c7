/*-------------------------------------------------------------------------
 *
 * rows.h
 *	  Rows written without a plan.
 *
 *	  Who knows where a row is need not look for it: an index scan, the arrays
 *	  that carry the new values, and the executor's nodes cost more than the
 *	  update of the row itself.  Constraints, indexes and row triggers are as in
 *	  a statement; triggers of statements do not fire.
 *
 * IDENTIFICATION
 *	  src/rows.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_ROWS_H
#define CDP_ROWS_H

#include "postgres.h"

#include "executor/executor.h"
#include "storage/itemptr.h"

typedef struct CdpRows
{
	Relation rel;
	bool heap; /* of PostgreSQL's own kind of tables */
	BlockNumber nblocks;
	Datum *values; /* of the row to be written, by column */
	bool *isnull;

	/* private */
	EState *estate;
	EPQState epqstate;
	ResultRelInfo *result;
	TupleTableSlot *slot;
	TupleTableSlot *old;
} CdpRows;

/* Open a table of the schema cdp; inside CdpBecomeOwner. */
extern void CdpRowsBegin(CdpRows *rows, const char *table);
/*
 * Where a row may be, for a table whose first column is a key of type bigint.
 */
typedef struct CdpRowHint
{
	int64 key;
	ItemPointer tid; /* made invalid where the row is not there */
} CdpRowHint;

/* Rows of one page are going to be updated: are they there, is there room? */
extern void CdpRowsVisit(CdpRows *rows, CdpRowHint *hints, int n);
/* Look a row up by its key; false when there is none. */
extern bool CdpRowsFind(CdpRows *rows, const char *index, int64 key, ItemPointer tid);
/*
 * Write values and isnull: over the row at *tid, or as a new one.  *tid is where
 * it is then.
 */
extern void CdpRowsUpdate(CdpRows *rows, ItemPointer tid);
extern void CdpRowsInsert(CdpRows *rows, ItemPointer tid);
extern void CdpRowsEnd(CdpRows *rows);

#endif /* CDP_ROWS_H */
