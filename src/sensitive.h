/*-------------------------------------------------------------------------
 *
 * sensitive.h
 *	  Values that not everybody who reads may see.
 *
 *	  Kinds of identifiers and traits can be marked as sensitive
 *	  (cdp.set_sensitivity()).  Wherever their values would come out they are
 *	  replaced by asterisks, unless the session's user may execute
 *	  cdp.see_sensitive().  The session's user is the one that logged in or was
 *	  SET, not the owner of a function that is being executed.
 *
 * IDENTIFICATION
 *	  src/sensitive.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_SENSITIVE_H
#define CDP_SENSITIVE_H

#include "postgres.h"

#include "utils/jsonb.h"

/* What is sensitive: the object of cdp.set_sensitivity(). */
typedef enum CdpSensitive
{
	CDP_SENSITIVE_KIND = 'k',
	CDP_SENSITIVE_TRAIT = 't',
	CDP_SENSITIVE_ACCOUNT_TRAIT = 'a'
} CdpSensitive;

#define CDP_MASK "***"

/* Is anything hidden from the session's user?  Ask once, then CdpHidden(). */
extern bool CdpAnythingHidden(void);
/* Is it hidden from him?  Names compare without regard to case. */
extern bool CdpHidden(CdpSensitive what, const char *name, int len);
/* An identifier as he may see it: the same, or kind:***. */
extern struct varlena *CdpShownIdentifier(struct varlena *identifier);
/* JSON with the values under the names of sensitive kinds and traits masked. */
extern Jsonb *CdpShownJsonb(Jsonb *json);
/* Error unless he may see it: definitions would let him find out. */
extern void CdpMustSee(CdpSensitive what, const char *name);

#endif /* CDP_SENSITIVE_H */
