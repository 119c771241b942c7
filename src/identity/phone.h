/*-------------------------------------------------------------------------
 *
 * phone.h
 *	  The narrow door between C and libphonenumber, which is C++.
 *
 *	  Nothing of PostgreSQL passes it: results go to the caller's buffer, and
 *	  neither an exception nor a longjmp crosses.
 *
 * IDENTIFICATION
 *	  src/identity/phone.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_PHONE_H
#define CDP_PHONE_H

#ifdef __cplusplus
#include <cstddef>
extern "C"
{
#else
#include <stddef.h>
#endif

/*
 * E.164 of a number in UTF-8, as a C string in out.  region is a two-letter
 * code that national numbers are taken to belong to, or "ZZ": then only
 * numbers in international form are read.  0 when value is no number.
 */
extern int	CdpPhoneE164(const char *value, size_t len, const char *region,
						 char *out, size_t outsize);

/* Is region one that CdpPhoneE164 knows? */
extern int	CdpPhoneRegionKnown(const char *region);

/*
 * Which library is loaded, as a C string in out: its file's name and a
 * fingerprint of its numbering plans.  0 when that cannot be found out.
 */
extern int	CdpPhoneVersion(char *out, size_t outsize);

#ifdef __cplusplus
}
#endif

#endif							/* CDP_PHONE_H */
