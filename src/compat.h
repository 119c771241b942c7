/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  What differs between the versions of PostgreSQL that we build on.
 *	  Each wrapper names the version that changed.
 *
 * IDENTIFICATION
 *	  src/compat.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_COMPAT_H
#define CDP_COMPAT_H

#include "utils/datetime.h"

#if PG_VERSION_NUM < 150000
#error "cdp needs PostgreSQL 15 or later"
#endif

/* 16 added the extra argument for errors (soft errors in the date parser). */
#if PG_VERSION_NUM >= 160000
static inline int
CdpDecodeDateTime(char **field, int *ftype, int nf, int *dtype,
				  struct pg_tm *tm, fsec_t *fsec, int *tzp)
{
	DateTimeErrorExtra extra;

	return DecodeDateTime(field, ftype, nf, dtype, tm, fsec, tzp, &extra);
}
#else
#define CdpDecodeDateTime DecodeDateTime
#endif

#endif							/* CDP_COMPAT_H */
