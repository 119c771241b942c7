/*-------------------------------------------------------------------------
 *
 * identity.h
 *	  Identifiers, kinds, normalisers, and the graph that they form.
 *
 * IDENTIFICATION
 *	  src/identity/identity.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_IDENTITY_H
#define CDP_IDENTITY_H

#include "access/genam.h"
#include "collect/collect.h"
#include "utils/relcache.h"

/* Longest canonical identifier, in bytes, that may become a node. */
#define CDP_MAX_IDENTIFIER	1024

/*
 * cdp.identifier: a varlena whose payload is the text kind:value.  A text
 * Datum and a cdp.identifier Datum have the same representation.
 */
typedef struct varlena CdpIdentifier;

#define DatumGetIdentifierPP(d)	((CdpIdentifier *) PG_DETOAST_DATUM_PACKED(d))
#define PG_GETARG_IDENTIFIER_PP(n)	DatumGetIdentifierPP(PG_GETARG_DATUM(n))

/* Length of the kind, i.e. the offset of the colon. */
extern int	CdpIdentifierKindLength(const CdpIdentifier *identifier);
/* Build kind:value; checks the kind's syntax, ereports on error. */
extern CdpIdentifier *CdpIdentifierMake(const char *kind, int kindlen,
										const char *value, int valuelen);

/* Periods of the calendar, in UTC (identity/period.c). */
typedef enum CdpPeriod
{
	CDP_PERIOD_EVER,
	CDP_PERIOD_HOUR,
	CDP_PERIOD_DAY,
	CDP_PERIOD_WEEK,
	CDP_PERIOD_MONTH,
	CDP_PERIOD_QUARTER,
	CDP_PERIOD_YEAR
} CdpPeriod;

/* What becomes of an entry whose link breaks the limit of a kind. */
typedef enum CdpPolicy
{
	CDP_POLICY_DEMOTE,			/* it counts for its owner */
	CDP_POLICY_REFUSE,			/* it does not count */
	CDP_POLICY_QUARANTINE,		/* it does not count unless released */
	CDP_POLICY_RAISE			/* as refuse, and an error where it is logged */
} CdpPolicy;

/* Who has an identifier that several people use. */
typedef enum CdpShared
{
	CDP_SHARED_FIRST,
	CDP_SHARED_NEWEST,
	CDP_SHARED_ANONYMOUS		/* nobody */
} CdpShared;

/* identity/kind.c: the registered kinds, loaded once per generation */
typedef struct CdpKind
{
	char	   *name;
	int			index;			/* position in the set */
	int			priority;		/* smaller is stronger */
	int			max_per_profile;	/* 0: no limit */
	CdpPeriod	within;			/* what the limit is about */
	CdpPolicy	policy;
	CdpShared	shared;
	bool		links;
	bool		account;		/* entity is 'account' */
	bool		email;			/* its values are e-mail addresses */
	bool		registered;		/* false for the stand-in of unknown kinds */
	struct CdpKindRules *rules; /* private to kind.c: normaliser, patterns */
} CdpKind;

typedef struct CdpKindSet CdpKindSet;

/*
 * The kinds as the active snapshot sees them.  Cached in the backend, by their
 * own generation.
 */
extern CdpKindSet *CdpKindSetGet(int64 generation);
/* As they were before a change of the rules (cdp.rule_changes.id). */
extern CdpKindSet *CdpKindSetBefore(int64 change);
extern void CdpKindSetsForget(int64 change);
extern bool CdpKindSetsReadAlike(CdpKindSet *a, CdpKindSet *b);
extern bool CdpKindSetsPoliciesAlike(CdpKindSet *a, CdpKindSet *b, const char *name);
extern bool CdpKindSetsJudgeAlike(CdpKindSet *a, CdpKindSet *b, const char *name);
/*
 * The kinds as they were in force at that time; *same: an identifier meant
 * then what it means now (limits aside).  Valid until the next call.
 */
extern CdpKindSet *CdpKindSetAt(TimestampTz known_at, bool *same);
/* Tells sets apart: one may get the address of another that is gone. */
extern int64 CdpKindSetSerial(CdpKindSet *set);
extern bool CdpKindSetRaises(CdpKindSet *set);	/* has a kind the policy raise? */
extern int	CdpKindCount(CdpKindSet *set);	/* registered kinds; valid indexes are 0 .. n-1 */
extern CdpKind *CdpKindByIndex(CdpKindSet *set, int index);
/* Never NULL: an unregistered kind yields a stand-in (links false, lowest priority). */
extern CdpKind *CdpKindLookup(CdpKindSet *set, const char *kind, int kindlen);

/* What became of a raw identifier. */
typedef enum CdpCanonicalStatus
{
	CDP_CANONICAL_OK,			/* usable, links */
	CDP_CANONICAL_LABEL,		/* usable, does not link */
	CDP_CANONICAL_BLOCKED,
	CDP_CANONICAL_INVALID,		/* the normaliser does not take it, or it is too long */
	CDP_CANONICAL_ACCOUNT		/* names an account, not a person */
} CdpCanonicalStatus;

/*
 * Canonical form of a raw identifier under its kind's rules: *canonical is
 * palloc'd and set unless BLOCKED or INVALID.  Never raises an error for the
 * identifier's contents.
 */
extern CdpCanonicalStatus CdpCanonicalise(CdpKindSet *set, const CdpIdentifier *raw,
										  CdpIdentifier **canonical, CdpKind **kind);

/*
 * identity/named.c: the identifiers by which an entry names somebody, the
 * owner's first, then the others that link.
 */
extern CdpIdentifier **CdpEntryNamed(CdpKindSet *kinds, const CdpEntry *entry, int *n);

/* identity/period.c: the number of the period that an instant is in */
extern int64 CdpPeriodNumber(CdpPeriod period, TimestampTz at);

/*
 * identity/raise.c: error when, as things are applied, a link of an entry with
 * these identifiers would break the limit of a kind whose policy is raise.
 */
extern void CdpCheckRaise(ArrayType *identifiers, const TimestampTz *occurred_at);

/* identity/lookup.c */

/* Columns of cdp.identities, in order. */
enum
{
	CDP_IDENTITIES_NODE_ID = 1,
	CDP_IDENTITIES_IDENTIFIER,
	CDP_IDENTITIES_PROFILE_ID,
	CDP_IDENTITIES_FIRST_SEEN,
	CDP_IDENTITIES_LAST_SEEN,
	CDP_IDENTITIES_STATE,
	CDP_IDENTITIES_SEGMENTS
};

extern IndexScanDesc CdpIdentitiesScan(Relation heap, const char *index_name,
									   Datum value, Relation *index);
/* The profile that the node is in now; 0 when there is no such node. */
extern int64 CdpProfileOfNode(int64 node_id);
extern int64 CdpProfileOfFormerNode(int64 node_id);
/*
 * The canonical form of an identifier given in a call; NULL when it is blocked
 * or not normalisable; error when its kind is not registered.
 */
extern CdpIdentifier *CdpCanonicalArgument(int64 generation, const CdpIdentifier *raw);
/* The profile that an identifier is in now; 0 when it is unknown. */
extern int64 CdpProfileOfIdentifier(int64 generation, const CdpIdentifier *raw);

/* identity/normalise.c, identity/phone.cpp */
typedef bool (*CdpNormaliser) (const char *value, int len, char **out, int *outlen);
extern CdpNormaliser CdpNormaliserByName(const char *name); /* NULL when unknown */

#endif							/* CDP_IDENTITY_H */
