/*-------------------------------------------------------------------------
 *
 * erase.h
 *	  Erasing a person: tombstones, and what names somebody.
 *
 *	  The steps that change what was derived are in apply/erase.c.
 *
 * IDENTIFICATION
 *	  src/trust/erase.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_TRUST_ERASE_H
#define CDP_TRUST_ERASE_H

#include "identity/identity.h"

typedef enum CdpEraseMode
{
	CDP_ERASE_UNKNOWN,
	CDP_ERASE_ALL,
	CDP_ERASE_ANONYMISE,
	CDP_ERASE_SUPPRESS
} CdpEraseMode;

extern CdpEraseMode CdpEraseModeFromText(const char *mode, int len);

/* tombstone.c; all inside SPI_connect and CdpBecomeOwner */

/* The HMAC of a canonical identifier, as a bytea. */
extern Datum CdpTombstoneHash(const CdpIdentifier *canonical);
/* No entry that has one of these is taken any more. */
extern void CdpTombstonesAdd(int64 erasure, CdpIdentifier **canonical, int n,
							 TimestampTz at);
/*
 * Which of these entries carry an identifier that has a tombstone, also where
 * they count for nobody?  Checked entries (CdpGraphCheck); deletes and counts
 * them, returns how many, and sets refused[].
 */
extern int CdpTombstonesRefuse(CdpKindSet *kinds, CdpEntry *entries, int n, bool *refused,
							   TimestampTz at);

/* scrub.c */

/* What is looked for: the identifiers of a person, canonical. */
typedef struct CdpScrubber CdpScrubber;

extern CdpScrubber *CdpScrubberMake(CdpKindSet *kinds, CdpIdentifier **identifiers,
									bool	   *shared, int n);
/* Which keys are personal, beside those that are by default, or are not. */
extern void CdpScrubberPersonal(CdpScrubber *scrubber, Datum *keys, bool *personal, int n);
/* The value without what names the person; NULL when there is nothing of it. */
extern Jsonb *CdpScrubJsonb(CdpScrubber *scrubber, Jsonb *value);
/* Without what is personal, too. */
extern Jsonb *CdpAnonymiseJsonb(CdpScrubber *scrubber, Jsonb *value);
extern text *CdpScrubText(CdpScrubber *scrubber, text *value);
/* The identifiers without the person's; NULL when there is none of them. */
extern ArrayType *CdpScrubIdentifiers(CdpScrubber *scrubber, ArrayType *identifiers);
extern bool CdpScrubberHas(CdpScrubber *scrubber, const CdpIdentifier *canonical,
						   bool *shared);
/* What the SQL functions cdp.erasure_* look for, until it is NULL again. */
extern void CdpScrubberAtWork(CdpScrubber *scrubber);

#endif /* CDP_TRUST_ERASE_H */
