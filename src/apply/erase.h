/*-------------------------------------------------------------------------
 *
 * erase.h
 *	  An erasure at work.
 *
 * IDENTIFICATION
 *	  src/apply/erase.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_APPLY_ERASE_H
#define CDP_APPLY_ERASE_H

#include "apply/batch.h"
#include "trust/erase.h"

/* A row of cdp.erasures that is not done, with its identifiers. */
typedef struct CdpErasure
{
	int64		id;
	CdpEraseMode mode;
	bool		removing; /* taken when neither */
	bool		sweeping;
	int64		position;
	char	   *layout; /* which files of the log position is about */
	int64		profile;
	int			n;
	CdpIdentifier **identifiers;
	bool	   *shared;
	CdpIdentifier *anonymous; /* under which events stay, mode anonymise */
	CdpScrubber *scrubber;
} CdpErasure;

/* Rows of the log that are to go, or to be changed. */
typedef struct CdpErasureRows
{
	CdpBatch   *batch;
	CdpCursorSet *applied;
	CdpErasure	   *erasure;
	bool		expired; /* they have been kept long enough: what they say of consent stays */
	List	   *exchanged; /* CdpReadings *; of those that go there is no is */
} CdpErasureRows;

/* erase.c */
extern void CdpErasureCount(CdpErasure *erasure, const char *what, int64 n);

/* erase_rows.c */
/* Does the entry belong to the person?  shared: also by what others have, too. */
extern bool CdpErasureOwns(CdpErasure *erasure, CdpEntry *entry, bool shared);
/*
 * Take the rows of SPI_tuptable, which have the columns of cdp.events, as far as
 * they are to go or to be changed.  owned: they are known to be the person's.
 */
extern void CdpErasureTakeRows(CdpErasureRows *rows, bool owned);
/*
 * Make the row of an expired entry one that only says what this entry said of
 * consent; false when it said nothing.
 */
extern bool CdpErasureConsentOnly(CdpErasureRows *rows, CdpEntry *entry, Datum *values, bool *isnull);
/* Write them, and what follows from it. */
extern void CdpErasureExchange(CdpErasureRows *rows);
/* Evaluate and write a batch that has been folded: what changes is not for an entry. */
extern void CdpErasureWrite(CdpBatch *batch);

#endif							/* CDP_APPLY_ERASE_H */
