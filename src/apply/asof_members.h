/*-------------------------------------------------------------------------
 *
 * asof_members.h
 *	  Who was a member of which account at an earlier time.
 *
 * IDENTIFICATION
 *	  src/apply/asof_members.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_ASOF_MEMBERS_H
#define CDP_ASOF_MEMBERS_H

#include "apply/accounts.h"
#include "apply/asof.h"

/* Every account has a place here. */
#define CDP_ALL_PLACES PG_INT32_MAX

/* The accounts that are named; those asked for have the first places. */
typedef struct CdpAsOfPlaces
{
	CdpKindSet *kinds;
	int64 generation; /* of definitions: which domains mean accounts … */
	CdpDomainChange change; /* … where a change of that has come */
	HTAB *sofar; /* … what addresses mean meanwhile that are looked at; or NULL */
	int nasked;
	HTAB *table;
	MemoryContext context;
} CdpAsOfPlaces;

/* What entries have said of an account, up to some instant. */
typedef struct CdpAsOfSaid
{
	int place;
	bool leaves;
	const CdpEntry *last;
} CdpAsOfSaid;

/* Since when has somebody had an address of the domain of an account? */
typedef struct CdpAsOfAddress
{
	int place;
	TimestampTz since;
	TimestampTz newest; /* the same of the newest one */
} CdpAsOfAddress;

/* A person, and what makes him a member. */
typedef struct CdpAsOfPerson
{
	CdpNode *root; /* NULL: entries that are nobody's */
	CdpEntry **entries; /* that he owns and that count, in order */
	int n;
	CdpAsOfAddress *addresses;
	int naddresses;
	CdpAsOfSaid *said;
	int nsaid;
	int maxsaid;
	int njoined; /* accounts that entries say he is in */
	int nheard; /* entries that have been heard */
} CdpAsOfPerson;

extern CdpAsOfPlaces *CdpAsOfPlacesMake(CdpAsOf *asof, int64 generation, int nasked);
extern int CdpAsOfPlace(CdpAsOfPlaces *places, CdpIdentifier *account);
/*
 * These people are looked at next: what their addresses mean is kept in the
 * current context, until CdpAsOfPeopleDone().
 */
extern void CdpAsOfPeople(CdpAsOfPlaces *places, CdpNode **roots, int n);
extern void CdpAsOfPeopleDone(CdpAsOfPlaces *places);
/*
 * The place of the account that an identifier means, if it is asked for, else
 * -1; kind: of an address, or NULL.
 */
extern int CdpAsOfAskedPlace(CdpAsOfPlaces *places, CdpIdentifier *identifier,
							 const CdpKind *kind);

/* Of pointers to entries, for qsort. */
extern int CdpAsOfByOrder(const void *a, const void *b);
/* root, entries and n are filled in. */
extern void CdpAsOfPersonBegin(CdpAsOfPlaces *places, CdpAsOfPerson *person);
/* What his entries say up to and at this instant. */
extern void CdpAsOfHear(CdpAsOfPlaces *places, CdpAsOfPerson *person, TimestampTz until);
/*
 * The accounts asked for that he is in by what has been heard, as of this
 * instant; found has room for maxsaid + naddresses.
 */
extern int CdpAsOfMemberships(CdpAsOfPlaces *places, const CdpAsOfPerson *person, TimestampTz at,
							  int *found);
/* All accounts of a person as of the question's instant, the primary one first. */
extern CdpIdentifier **CdpAsOfAccounts(CdpAsOf *asof, int64 generation, CdpNode *root,
									   CdpEntry **entries, int n, int *naccounts);

/* account_asof.c */
/* The values of an account's traits, as of the instants of the question; false: it was unknown. */
extern bool CdpAsOfAccountValues(CdpAsOf *asof, CdpIdentifier *account, CdpProfileValues *values);

#endif /* CDP_ASOF_MEMBERS_H */
