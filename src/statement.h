/*-------------------------------------------------------------------------
 *
 * statement.h
 *	  Statements that are prepared once per backend and run over arrays.
 *
 *	  Sets go in and out of SQL as arrays or rows; C computes in between.  A
 *	  CdpStatement is static data; its plan is made at first use.
 *
 * IDENTIFICATION
 *	  src/statement.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_STATEMENT_H
#define CDP_STATEMENT_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/tuplestore.h"

#define CDP_STATEMENT_ARGS	12
#define CDP_STATEMENT_COLUMNS	12

typedef struct CdpColumn
{
	const char *name;
	const char *type;			/* SQL type name */
} CdpColumn;

typedef struct CdpStatement
{
	const char *sql;
	const char *types[CDP_STATEMENT_ARGS];	/* SQL type names, NULL-terminated */

	/*
	 * There is nothing to find or to do where this table has never had a row
	 * (NULL: never mind).  Most databases have no undo, and no timer.
	 */
	const char *table;

	/*
	 * The columns of the relation "given", for statements that read rows from it:
	 * CdpGive.  Ended by a NULL name.
	 */
	CdpColumn	given[CDP_STATEMENT_COLUMNS + 1];
	SPIPlanPtr	plan;
	bool		generic;		/* it was made where plans are pinned */
	TupleDesc	desc;			/* of given */
	struct CdpStatement *next;
} CdpStatement;

/* Rows that a statement is going to read. */
typedef struct CdpGiven
{
	int			n;
	CdpStatement *statement;
	Tuplestorestate *rows;
} CdpGiven;

/*
 * Run with the given arguments (nulls may be NULL); inside SPI_connect and
 * CdpBecomeOwner.  Returns SPI_processed; rows are in SPI_tuptable.
 */
extern uint64 CdpRun(CdpStatement *statement, Datum *args, const char *nulls);
/* The same, and the memory context stays the caller's. */
extern uint64 CdpRunHere(CdpStatement *statement, Datum *args, const char *nulls);

/* Fetch rows of a cursor, and the memory context stays the caller's. */
extern uint64 CdpFetchHere(Portal portal, long count);

/*
 * Rows for a statement, in the current memory context; their values are copied.
 * CdpRunGiven runs it over them, unless there are none, and lets go of them.
 * Cheaper than an array a column, which takes a function call for each value,
 * and several thousand instructions to begin with.
 */
extern CdpGiven *CdpGive(CdpStatement *statement);
extern void CdpGiveRow(CdpGiven *given, Datum *values, bool *isnull);
extern uint64 CdpRunGiven(CdpGiven *given, Datum *args, const char *nulls);

/*
 * The identifier of the memory context of a batch: CdpRun leaves its caller there,
 * if he was.
 */
extern const char CdpBatchMemory[];

/*
 * Set while a function that may not write runs: all statements then see the
 * snapshot of the query that called it.  Whoever sets it resets it on error.
 */
extern bool CdpStatementsReadOnly;

/* Has a table of the schema cdp no page, so that it cannot have a row? */
extern bool CdpTableIsVoid(const char *table);

/* Make the plan, for who runs it by a cursor. */
extern void CdpPrepare(CdpStatement *statement);

/*
 * Pin the access path of the statements that the applier runs: index lookups
 * driven by arrays, by one plan whatever the arguments.  A plan that was cached
 * while a table was nearly empty would otherwise scan it for ever.  Holds until
 * CdpUnpinPlans with what CdpPinPlans has returned, or CdpRestoreUser for the
 * CdpBecomeOwner before it, or an error.
 */
extern bool CdpPinPlans(void);
extern bool CdpPlansPinned(void);
extern void CdpUnpinPlans(bool before);
extern void CdpStatementInit(void);

extern Datum CdpInt8Array(const int64 *values, int n);
extern Datum CdpInt4Array(const int32 *values, int n);
extern Datum CdpTimestampArray(const TimestampTz *values, int n);
extern Datum CdpBoolArray(const bool *values, int n);
/* Varlena or cstring-free elements of a type; isnull may be NULL. */
extern Datum CdpVarlenaArray(Datum *values, bool *isnull, int n, Oid elemtype);

/* The order of int64, for qsort and its like. */
extern int CdpCompareInt8(const void *a, const void *b);

/* Column col (1-based) of row i of SPI_tuptable. */
extern Datum CdpCell(uint64 i, int col, bool *isnull);
extern int64 CdpCellInt8(uint64 i, int col);	/* error when NULL */
/* A varlena cell, detoasted and copied into the given context; NULL when null. */
extern struct varlena *CdpCellVarlena(uint64 i, int col, MemoryContext context);

#endif							/* CDP_STATEMENT_H */
