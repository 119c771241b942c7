/*-------------------------------------------------------------------------
 *
 * consent.h
 *	  Purposes, which are hidden traits, and what was said about them.
 *
 * IDENTIFICATION
 *	  src/traits/consent.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_CONSENT_H
#define CDP_CONSENT_H

#include "identity/identity.h"
#include "traits/state.h"

/* Letters of words. */
#define CDP_CONSENT_GRANTED		'g'
#define CDP_CONSENT_DENIED		'd'
#define CDP_CONSENT_UNSET		'u'
#define CDP_CONSENT_SPOKEN_FOR	's' /* another identifier of the entry spoke */

typedef struct CdpConsentWord
{
	char		key[CDP_CONSENT_KEY];
	char		letter;
	TimestampTz at;
	TimestampTz expires;		/* DT_NOEND: never */
	const char *source;
	int			sourcelen;
} CdpConsentWord;

/* The trait that a purpose is, 0: there is none of that name. */
extern int32 CdpPurposeId(const char *name);
extern void CdpPurposeDefine(const char *name, bool latest, Jsonb *options,
							 const char *description);
extern void CdpPurposeDrop(int32 id);

extern const char *CdpPurposeName(const CdpTrait *trait);

/* granted, denied, unset */
extern const char *CdpConsentWordName(char letter);
/* Does a profile with these values consent?  trait: index, -1: unknown purpose. */
extern bool CdpConsentGranted(const CdpProfileValues *values, int trait);
extern void CdpConsentKey(const CdpIdentifier *identifier, char *key);
extern int	CdpConsentWords(CdpTraitSet *set, int trait, CdpNodeAcc **nodes, int nnodes,
							CdpConsentWord **words);

#endif							/* CDP_CONSENT_H */
