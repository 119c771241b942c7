/*-------------------------------------------------------------------------
 *
 * direct.h
 *	  Rows read without a statement: of small tables, and by keys.
 *
 *	  What a statement takes to begin and to end with is ten times what reading
 *	  a row takes, and every batch reads a few tables of one row and looks up a
 *	  few identifiers.
 *
 * IDENTIFICATION
 *	  src/direct.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_DIRECT_H
#define CDP_DIRECT_H

#include "postgres.h"

#include "access/attnum.h"
#include "storage/block.h"
#include "storage/itemptr.h"

#define CDP_DIRECT_COLUMNS	12

/* A table and the columns to read; static data. */
typedef struct CdpDirect
{
	const char *table;
	const char *columns[CDP_DIRECT_COLUMNS + 1];	/* NULL-terminated */

	/*
	 * Whoever updates these rows sees to it that their pages have room
	 * (CdpMakeRoom): reading them need not.
	 */
	bool		unpruned;
	Oid			relid;			/* the table that the numbers are of */
	AttrNumber	numbers[CDP_DIRECT_COLUMNS];
} CdpDirect;

/*
 * A row: the columns in their order.  The values last until the function returns.
 */
typedef void (*CdpDirectRow) (Datum *values, bool *isnull, void *arg);

/*
 * Have the active snapshot be one that sees what a statement of SPI would: what is
 * committed by now, unless the caller may not write.
 */
extern void CdpReadingBegin(void);
extern void CdpReadingEnd(void);

/* Read all rows of a table in schema cdp, in no order; returns how many. */
extern int	CdpReadDirect(CdpDirect *direct, CdpDirectRow row, void *arg);

/* Rows by the first column of an index, asked for one key after the other. */
typedef struct CdpProber CdpProber;

extern CdpProber *CdpProbeBegin(CdpDirect *direct, const char *index);
extern int	CdpProbe(CdpProber *prober, Datum key, CdpDirectRow row, void *arg);
/*
 * The same without the rows to which these entries of the index point, in their
 * order: CdpProbeEntry told it when they were read.
 */
extern int	CdpProbeOthers(CdpProber *prober, Datum key, const ItemPointerData *known,
						   int nknown, CdpDirectRow row, void *arg);
/* The index entry of the row that is being taken; invalid where the table is read. */
extern const ItemPointerData *CdpProbeEntry(CdpProber *prober);
extern void CdpProbeEnd(CdpProber *prober);


/* So many bytes of new versions of rows are going to be put into a page. */
typedef struct CdpRoom
{
	BlockNumber block;
	Size		size;
} CdpRoom;

/* Remove dead rows from those of the pages that have not so much room. */
extern void CdpMakeRoom(const char *table, const CdpRoom *rooms, int n);

#endif							/* CDP_DIRECT_H */
