/*-------------------------------------------------------------------------
 *
 * asof_members.c
 *	  Who was a member of which account at an earlier time.
 *
 *	  What CDP_MEMBERSHIPS says in SQL of the present, for a person as asof.c
 *	  finds him: the latest of his entries that names an account says whether he
 *	  is in it; where none has named it, and none says that he is in another,
 *	  the domains of his addresses of e-mail do.
 *
 * IDENTIFICATION
 *	  src/apply/asof_members.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "apply/accounts.h"
#include "apply/asof_members.h"
#include "cdp.h"

typedef struct Place
{
	CdpIdentifier *identifier; /* hash key, compared by contents */
	int place;
} Place;

/* A membership, for its order among others. */
typedef struct Membership
{
	CdpIdentifier *account;
	int place;
	TimestampTz at;
	const text *tie; /* NULL: by a domain */
} Membership;

CdpAsOfPlaces *
CdpAsOfPlacesMake(CdpAsOf *asof, int64 generation, int nasked)
{
	CdpAsOfPlaces *places = palloc(sizeof(CdpAsOfPlaces));

	places->kinds = asof->kinds;
	places->generation = generation;
	(void) CdpDomainsChanging(&places->change);
	places->sofar = NULL;
	places->nasked = nasked;
	places->context = CurrentMemoryContext;
	places->table = CdpVarlenaTable(CurrentMemoryContext, "cdp accounts as of", sizeof(Place), 64);
	return places;
}

int
CdpAsOfPlace(CdpAsOfPlaces *places, CdpIdentifier *account)
{
	bool found;
	Place *place = hash_search(places->table, &account, HASH_ENTER, &found);

	if (!found)
	{
		Size size = VARSIZE_ANY(account);

		place->place = (int) hash_get_num_entries(places->table) - 1;
		place->identifier = memcpy(MemoryContextAlloc(places->context, size), account, size);
	}
	return place->place;
}

int
CdpAsOfAskedPlace(CdpAsOfPlaces *places, CdpIdentifier *identifier, const CdpKind *kind)
{
	Place *place;

	if (kind != NULL && kind->email)
		identifier = CdpDomainAccountNow(places->kinds, places->generation, &places->change,
										 places->sofar, identifier);
	if (identifier == NULL)
		return -1;
	if (places->nasked == CDP_ALL_PLACES)
		return CdpAsOfPlace(places, identifier);
	place = hash_search(places->table, &identifier, HASH_FIND, NULL);
	return place != NULL && place->place < places->nasked ? place->place : -1;
}

void
CdpAsOfPeople(CdpAsOfPlaces *places, CdpNode **roots, int n)
{
	CdpIdentifier **addresses;
	int max = 0;
	int naddresses = 0;

	places->sofar = NULL;
	if (places->change.position >= places->change.upto)
		return;
	for (int i = 0; i < n; i++)
		max += roots[i]->size;
	addresses = palloc(sizeof(CdpIdentifier *) * Max(max, 1));
	for (int i = 0; i < n; i++)
	{
		CdpNode *node = roots[i];

		do
		{
			if (node->kind->email)
				addresses[naddresses++] = node->identifier;
			node = node->next;
		} while (node != roots[i]);
	}
	places->sofar = CdpDomainsSoFar(&places->change, addresses, naddresses);
	pfree(addresses);
}

void
CdpAsOfPeopleDone(CdpAsOfPlaces *places)
{
	places->sofar = NULL;
}

void
CdpAsOfPersonBegin(CdpAsOfPlaces *places, CdpAsOfPerson *person)
{
	CdpNode *node = person->root;

	for (int i = 0; i < person->n; i++)
		person->maxsaid += person->entries[i]->naccounts;
	person->said = palloc(sizeof(CdpAsOfSaid) * Max(person->maxsaid, 1));
	if (node == NULL)
		return;
	person->addresses = palloc(sizeof(CdpAsOfAddress) * person->root->size);
	do
	{
		int place = node->first_seen != DT_NOEND && node->kind->email ?
			CdpAsOfAskedPlace(places, node->identifier, node->kind) :
			-1;
		int i = 0;

		while (i < person->naddresses && person->addresses[i].place != place)
			i++;
		if (place >= 0 && i == person->naddresses)
		{
			person->naddresses++;
			person->addresses[i].place = place;
			person->addresses[i].since = person->addresses[i].newest = node->first_seen;
		}
		else if (place >= 0)
		{
			person->addresses[i].since = Min(person->addresses[i].since, node->first_seen);
			person->addresses[i].newest = Max(person->addresses[i].newest, node->first_seen);
		}
		node = node->next;
	} while (node != person->root);
}

static void
hear(CdpAsOfPlaces *places, CdpAsOfPerson *person, const CdpEntry *entry)
{
	for (int i = 0; i < entry->naccounts; i++)
	{
		int place = CdpAsOfPlace(places, entry->accounts[i]);
		bool leaves = entry->type == CDP_ENTRY_LEAVE;
		CdpAsOfSaid *said = person->said;

		while (said < person->said + person->nsaid && said->place != place)
			said++;
		if (said == person->said + person->nsaid)
		{
			person->nsaid++;
			said->place = place;
			said->leaves = true;
		}
		person->njoined += (int) said->leaves - (int) leaves;
		said->leaves = leaves;
		said->last = entry;
	}
}

void
CdpAsOfHear(CdpAsOfPlaces *places, CdpAsOfPerson *person, TimestampTz until)
{
	for (; person->nheard < person->n && person->entries[person->nheard]->at <= until;
		 person->nheard++)
		hear(places, person, person->entries[person->nheard]);
}

int
CdpAsOfMemberships(CdpAsOfPlaces *places, const CdpAsOfPerson *person, TimestampTz at, int *found)
{
	int n = 0;

	for (int i = 0; i < person->nsaid; i++)
		if (!person->said[i].leaves && person->said[i].place < places->nasked)
			found[n++] = person->said[i].place;
	for (int i = 0; i < person->naddresses && person->njoined == 0; i++)
	{
		bool counts = person->addresses[i].since <= at;

		for (int j = 0; j < person->nsaid && counts; j++)
			counts = person->said[j].place != person->addresses[i].place;
		if (counts)
			found[n++] = person->addresses[i].place;
	}
	return n;
}

/* As accounts.c has the accounts of a profile: ties that are NULL come first. */
static int
compare_memberships(const void *a, const void *b)
{
	const Membership *x = a;
	const Membership *y = b;
	int cmp = 0;

	if (x->tie != NULL && y->tie != NULL)
		cmp = -CdpOrderCompare(x->at, x->tie, y->at, y->tie);
	else if (x->at != y->at)
		return x->at > y->at ? -1 : 1;
	else if (x->tie != y->tie)
		return x->tie == NULL ? -1 : 1;
	if (cmp != 0)
		return cmp;
	cmp = memcmp(VARDATA_ANY(x->account), VARDATA_ANY(y->account),
				 Min(VARSIZE_ANY_EXHDR(x->account), VARSIZE_ANY_EXHDR(y->account)));
	return cmp != 0 ? cmp :
					  (int) VARSIZE_ANY_EXHDR(x->account) - (int) VARSIZE_ANY_EXHDR(y->account);
}

int
CdpAsOfByOrder(const void *a, const void *b)
{
	return CdpEntryCompare(*(CdpEntry *const *) a, *(CdpEntry *const *) b);
}

CdpIdentifier **
CdpAsOfAccounts(CdpAsOf *asof, int64 generation, CdpNode *root, CdpEntry **entries, int n,
				int *naccounts)
{
	CdpAsOfPlaces *places = CdpAsOfPlacesMake(asof, generation, CDP_ALL_PLACES);
	CdpAsOfPerson person = { .root = root };
	CdpIdentifier **accounts;
	Membership *memberships;
	int *found;
	HASH_SEQ_STATUS seq;
	Place *place;

	person.entries = palloc(sizeof(CdpEntry *) * Max(n, 1));
	for (int i = 0; i < n; i++)
		if (entries[i]->owner != 0 && !entries[i]->withheld &&
			CdpNodeRoot(entries[i]->owner_node) == root)
			person.entries[person.n++] = entries[i];
	qsort(person.entries, person.n, sizeof(CdpEntry *), CdpAsOfByOrder);
	CdpAsOfPeople(places, &root, 1);
	CdpAsOfPersonBegin(places, &person);
	CdpAsOfPeopleDone(places);
	CdpAsOfHear(places, &person, DT_NOEND);
	found = palloc(sizeof(int) * (person.maxsaid + person.naddresses + 1));
	*naccounts = CdpAsOfMemberships(places, &person, DT_NOEND, found);
	memberships = palloc0(sizeof(Membership) * Max(*naccounts, 1));
	accounts = palloc(sizeof(CdpIdentifier *) * Max(*naccounts, 1));
	for (int i = 0; i < *naccounts; i++)
	{
		memberships[i].place = found[i];
		for (int j = 0; j < person.naddresses; j++)
			if (person.addresses[j].place == found[i])
				memberships[i].at = person.addresses[j].newest;
		for (int j = 0; j < person.nsaid; j++)
			if (person.said[j].place == found[i])
			{
				memberships[i].at = person.said[j].last->at;
				memberships[i].tie = person.said[j].last->tie;
			}
	}
	hash_seq_init(&seq, places->table);
	while ((place = hash_seq_search(&seq)) != NULL)
		for (int i = 0; i < *naccounts; i++)
			if (memberships[i].place == place->place)
				memberships[i].account = place->identifier;
	qsort(memberships, *naccounts, sizeof(Membership), compare_memberships);
	for (int i = 0; i < *naccounts; i++)
		accounts[i] = memberships[i].account;
	return accounts;
}
